"""A verified ledger, to be looked things up in: entries by number, kind, member, run and round; and its tree.

What is looked up is read from the ledger's file, which only grows; kept in memory are places, some 150 bytes
an entry. Nothing is verified here, that is done before the file is written.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from tapestry.audit.file import ENTRY
from tapestry.errors import NotFound
from tapestry.ledger import tree
from tapestry.ledger.entries import CONSORTIUM
from tapestry.protocol import canonical

END: Final = len(b"}\n")
_NOTHING: Final = array("I")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What entries must have; None: anything.

    Args:
        kind: the entry's type.
        member: whom it is about, or who made it.
        run: its scope.
        round: of that run, or of any.
    """

    kind: str | None = None
    member: str | None = None
    run: str | None = None
    round: int | None = None


class Book:
    """Of one file of `audit.file`. Safe to use from several threads.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._clear()

    def _clear(self) -> None:
        self._read_to = 0
        self._places = array("Q")
        self._lengths = array("L")
        self._levels: list[bytearray] = []
        self._lists: dict[tuple[str, str | int], array[int]] = {}
        """Positions of entries by (field, value), ascending."""
        self._members: dict[str, str] = {}
        """Whose node it is."""

    @property
    def size(self) -> int:
        """Entries that are known here."""
        return len(self._places)

    def follow(self, size: int) -> None:
        """Take in the file until so many entries are known, or it ends; all, where it has shrunk."""
        with self._lock:
            try:
                if self._path.stat().st_size < self._read_to:
                    self._clear()
                with self._path.open("rb") as file:
                    file.seek(self._read_to)
                    while self.size < size and (line := file.readline()).endswith(b"\n"):
                        if line.startswith(ENTRY):
                            self._take(line, self._read_to + len(ENTRY))
                        self._read_to += len(line)
            except FileNotFoundError:
                self._clear()

    # -- one entry ----------------------------------------------------------------------------------

    def entry(self, sequence: int) -> bytes:
        """Its canonical bytes. Raises `NotFound`."""
        if not 1 <= sequence <= self.size:
            raise NotFound(f"the ledger has no entry {sequence}", hint=f"it has {self.size}")
        with self._path.open("rb") as file:
            file.seek(self._places[sequence - 1])
            return file.read(self._lengths[sequence - 1])

    def inclusion(self, sequence: int, size: int) -> tuple[bytes, ...]:
        """That an entry is among the first `size`. Raises `NotFound`."""
        if not 1 <= sequence <= size <= self.size:
            raise NotFound(f"the first {size} of {self.size} entries have no entry {sequence}")
        return tree.inclusion_proof(sequence - 1, size, self._node)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """That the first `new` entries begin with the first `old`. Raises `NotFound`."""
        if not 0 <= old <= new <= self.size:
            raise NotFound(f"of {self.size} entries the first {new} do not begin with the first {old}")
        return tree.consistency_proof(old, new, self._node)

    # -- many ---------------------------------------------------------------------------------------

    def found(self, wanted: Search) -> array[int] | range:
        """Numbers of the entries that have it, ascending."""
        lists = list(self._wanted(wanted))
        if not lists:
            return range(1, self.size + 1)
        lists.sort(key=len)
        first, rest = lists[0], [set(each) for each in lists[1:]]
        return array("I", (each for each in first if all(each in other for other in rest)))

    def _wanted(self, wanted: Search) -> Iterator[array[int]]:
        for field, value in (("kind", wanted.kind), ("member", wanted.member), ("run", wanted.run)):
            if value is not None:
                yield self._lists.get((field, value), _NOTHING)
        if wanted.round is not None:
            yield self._lists.get(("round", wanted.round), _NOTHING)

    def values(self, field: str) -> list[str]:
        """What a field has been, in order: kinds, members or runs."""
        return sorted(str(value) for name, value in self._lists if name == field)

    # -- taking in ----------------------------------------------------------------------------------

    def _take(self, line: bytes, place: int) -> None:
        data = line[len(ENTRY) : -END]
        value = json.loads(data)
        self._places.append(place)
        self._lengths.append(len(data))
        for level, _, found in tree.new_nodes(self.size - 1, tree.leaf_hash(data), self._node):
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += found
        body = value["body"]
        self._list("kind", value["type"])
        if value["scope"] != CONSORTIUM:
            self._list("run", value["scope"])
        if type(body.get("round")) is int:
            self._list("round", body["round"])
        if value["type"] == "node-enrolled":
            self._members[body["node"]] = body["member"]
        for member in sorted(set(self._about(body))):
            self._list("member", member)

    def _about(self, body: dict[str, Any]) -> Iterable[str]:
        named = [body, *(each for each in body.get("merged", ()) if isinstance(each, dict))]
        for each in named:
            member = each.get("member") or self._members.get(str(each.get("node")))
            if isinstance(member, str) and canonical.is_name(member):
                yield member

    def _list(self, field: str, value: str | int) -> None:
        self._lists.setdefault((field, value), array("I")).append(self.size)

    def _node(self, level: int, index: int) -> bytes:
        at = index * tree.HASH_BYTES
        return bytes(self._levels[level][at : at + tree.HASH_BYTES])
