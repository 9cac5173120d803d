"""The ledger as this dashboard has verified it: its lines on disk; in memory where each entry stands and what
proofs are made of, about 100 bytes an entry."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tapestry.audit import file
from tapestry.errors import FormatError, NotFound
from tapestry.host import files
from tapestry.ledger import tree
from tapestry.ledger.entries import Entry

NAME: Final = "ledger.jsonl"
MAX_READ: Final = 1000
_READ_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Page:
    """An entry with the envelope that it names, if it does."""

    entry: Entry
    envelope: bytes | None


@dataclass(frozen=True, slots=True)
class Added:
    """What of an entry stays in memory; `size`: bytes of its lines."""

    type: str
    scope: str
    leaf: bytes
    size: int


class Book:
    """In one folder, which no other process writes. One thread appends; any may read.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = files.Lock(folder / ".lock")
        self._lock.acquire()
        self._path = folder / NAME
        self.turn = 0
        """How often it was begun anew."""
        self._forget()

    def _forget(self) -> None:
        self._starts = array("Q")
        """Where the lines of each entry begin."""
        self._end = 0
        self._tree = tree.Tree()
        self.kinds: list[str] = []
        """Types of entries and scopes, each once; `of` has their numbers."""
        self._number: dict[str, int] = {}
        self.types = array("H")
        """Of each entry: the number of its type in `kinds`."""
        self.scopes = array("H")

    def close(self) -> None:
        self._lock.release()

    @property
    def size(self) -> int:
        return len(self._starts)

    def kept(self) -> Iterator[bytes]:
        """What an earlier process has left here, some megabytes of whole entries at a time; `clear` it if it
        does not hold."""
        if not self._path.exists():
            return
        with self._path.open("rb") as handle:
            rest = b""
            while data := handle.read(_READ_BYTES):
                rest += data
                last = rest.rfind(file.ENTRY, 0, rest.rfind(b"\n") + 1)
                end = rest.find(b"\n", last) + 1 if last >= 0 else 0
                if end:
                    yield rest[:end]
                    rest = rest[end:]

    def clear(self) -> None:
        with files.full_disk(self._path):
            self._path.write_bytes(b"")
        self.turn += 1
        self._forget()

    def add(self, lines: bytes, entries: Sequence[Added], *, kept: bool = False) -> None:
        """Entries that hold, with their lines, go behind those that are there; `kept`: the lines are."""
        if not kept:
            with (
                files.full_disk(self._path),
                self._path.open("r+b" if self._path.exists() else "w+b") as handle,
            ):
                handle.seek(self._end)
                handle.write(lines)
                handle.truncate()
        for each in entries:
            self._tree.add(each.leaf)
            self.types.append(self._kind(each.type))
            self.scopes.append(self._kind(each.scope))
            self._starts.append(self._end)
            self._end += each.size

    def read(self, first: int, count: int) -> list[Page]:
        """Entries from a position on, at most so many. Raises `NotFound` where there is no such position."""
        size = self.size
        if not 1 <= first <= size:
            raise NotFound(f"the ledger has {size} entries")
        last = min(size, first + min(count, MAX_READ) - 1)
        begin = self._starts[first - 1]
        end = self._starts[last] if last < size else self._end
        with self._path.open("rb") as handle:
            handle.seek(begin)
            data = handle.read(end - begin)
        found: list[Page] = []
        envelope: bytes | None = None
        for kind, value in file.parse(data):
            if kind == "blob":
                envelope = value
            elif kind == "entry":
                found.append(Page(value, envelope))
                envelope = None
        if len(found) != last - first + 1:
            raise FormatError("the ledger on disk is not what it was")
        return found

    def leaf(self, sequence: int) -> bytes:
        return self._tree.node(0, sequence - 1)

    def root(self, size: int) -> bytes:
        return self._tree.root(size)

    def inclusion(self, sequence: int, size: int) -> tuple[bytes, ...]:
        """That an entry is among the first `size`. Raises `NotFound`."""
        if not 1 <= sequence <= size <= self.size:
            raise NotFound(f"there is no entry {sequence} among the first {size} of {self.size}")
        return self._tree.inclusion(sequence - 1, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """That the first `new` entries begin with the first `old`. Raises `NotFound`."""
        if not 0 <= old <= new <= self.size:
            raise NotFound(f"the ledger has {self.size} entries")
        return self._tree.consistency(old, new)

    def _kind(self, name: str) -> int:
        number = self._number.get(name)
        if number is None:
            number = self._number[name] = len(self.kinds)
            self.kinds.append(name)
        return number
