"""Where in a ledger things stand: entries by kind, member, run and round.

Made from the entries that were verified, when somebody first looks, and then followed; some 30 bytes each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.canonical import is_name
from tapestry.web.book import Book

AT_ONCE: Final = 500
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


class Index:
    """Of one book. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lists: dict[tuple[str, str | int], array[int]] = {}
        """Numbers of entries by (field, value), ascending."""
        self._members: dict[str, str] = {}
        """Whose node it is, by its enrolment."""
        self._turn = 0
        self.size = 0

    def has_all(self, book: Book) -> bool:
        return (self._turn, self.size) == (book.turn, book.size)

    def follow(self, book: Book) -> None:
        """Take in what the book has by now."""
        with self._lock:
            if book.turn != self._turn:  # it was begun anew
                self._lists, self._members, self.size, self._turn = {}, {}, 0, book.turn
            while self.size < book.size:
                for each in book.read(self.size + 1, AT_ONCE):
                    self._take(each.entry)

    def found(self, wanted: Search) -> array[int] | range:
        """Numbers of the entries that have it, ascending."""
        fields = (
            ("kind", wanted.kind),
            ("member", wanted.member),
            ("run", wanted.run),
            ("round", wanted.round),
        )
        lists = [self._lists.get((name, value), _NOTHING) for name, value in fields if value is not None]
        if not lists:
            return range(1, self.size + 1)
        lists.sort(key=len)
        first, rest = lists[0], [set(each) for each in lists[1:]]
        return array("I", (each for each in first if all(each in other for other in rest)))

    def values(self, field: str) -> list[str]:
        """What a field has been, in order: kinds, members or runs."""
        return sorted(str(value) for name, value in [*self._lists] if name == field)

    def member_of(self, entry: Entry) -> str | None:
        """Whom an entry is about, or who made it, where it names one."""
        return next(self._about(entry.body), None)

    def _take(self, entry: Entry) -> None:
        self.size = entry.sequence
        body = entry.body
        self._list("kind", entry.type)
        if entry.scope != CONSORTIUM:
            self._list("run", entry.scope)
        if type(body.get("round")) is int:
            self._list("round", body["round"])
        if entry.type == "node-enrolled":
            self._members[body["node"]] = body["member"]
        merged = (each for each in body.get("merged", ()) if isinstance(each, dict))
        for member in sorted({name for each in (body, *merged) for name in self._about(each)}):
            self._list("member", member)

    def _about(self, value: dict[str, Any]) -> Iterator[str]:
        member = value.get("member") or self._members.get(str(value.get("node")))
        if isinstance(member, str) and is_name(member):
            yield member

    def _list(self, field: str, value: str | int) -> None:
        self._lists.setdefault((field, value), array("I")).append(self.size)
