"""What a browser needs to follow the core's key: every entry that gave it another, and who has signed.

Of each entry its bytes and its proof, so that nothing here is believed. That no member was left out cannot be
proven so; `tapestry ledger verify`, which reads every entry, looks at that.
"""

from __future__ import annotations

from typing import Any, Final

from tapestry.errors import NotFound
from tapestry.governance.proposal import Expel, HearAppeal, ReplaceRootKey
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.web.book import Book
from tapestry.web.index import Index, Search

MAX_ENTRIES: Final = 2000
"""That a browser is given; some kilobytes each."""


def numbers(index: Index, size: int) -> list[int]:
    """Of the entries that gave the core another key, among the first `size`."""
    return [each for each in index.found(Search(kind="core-succeeded")) if each <= size]


def chain(book: Book, assembly: Assembly, changes: list[int], size: int) -> dict[str, Any]:
    """All successions up to a size of the ledger, as JSON values. Raises `NotFound`, for more than
    `MAX_ENTRIES` too."""
    given = _Given(book, size)
    found = [_one(given, assembly, sequence) for sequence in changes]
    return {"size": size, "successions": found, "entries": given.entries}


class _Given:
    """Entries that are told, each once."""

    def __init__(self, book: Book, size: int) -> None:
        self.book = book
        self.size = size
        self.entries: dict[str, dict[str, Any]] = {}

    def body(self, sequence: int) -> dict[str, Any]:
        entry = self.book.read(sequence, 1)[0].entry
        if str(sequence) not in self.entries:
            if len(self.entries) == MAX_ENTRIES:
                raise NotFound("that is more than a browser is given", hint="run: tapestry ledger verify")
            proof = [each.hex() for each in self.book.inclusion(sequence, self.size)]
            self.entries[str(sequence)] = {"entry": entry.to_bytes().decode(), "proof": proof}
        return entry.body


def _one(given: _Given, assembly: Assembly, sequence: int) -> dict[str, Any]:
    ring = assembly.ring
    members = {name: _named(given, assembly, name, sequence) for name in _members(assembly, sequence)}
    signed: dict[str, int] = {}
    for text in given.body(sequence)["envelopes"]:
        key = Envelope.from_bytes(str(text).encode()).signatures[0].keyid
        if (held := ring.keys.get(key)) is not None:
            given.body(held.sequence)
            signed[key] = held.sequence
    return {
        "sequence": sequence,
        "consistency": [each.hex() for each in given.book.consistency(sequence - 1, given.size)],
        "members": members,
        "certificates": signed,
    }


def _members(assembly: Assembly, before: int) -> list[str]:
    """Who was a member then, whatever was decided since."""
    expelled: set[str] = set()
    for item in assembly.governance.proposals.values():
        if item.outcome is not None and item.outcome.in_force and item.outcome.sequence < before:
            if isinstance(item.subject, Expel):
                expelled.add(item.subject.member)
            elif isinstance(item.subject, HearAppeal):
                expelled.discard(item.subject.member)
    members = assembly.ring.members
    return [name for name, each in members.items() if each.sequence < before and name not in expelled]


def _named(given: _Given, assembly: Assembly, member: str, before: int) -> list[int]:
    """The entries that name a member's root key: its admission, or the newest vote that replaced it."""
    found = [assembly.ring.members[member].sequence]
    for item in assembly.governance.proposals.values():
        subject, outcome = item.subject, item.outcome
        if outcome is None or outcome.sequence >= before or not outcome.in_force:
            continue
        if isinstance(subject, ReplaceRootKey) and subject.member == member:
            found = [item.sequence, outcome.sequence]
    for each in found:
        given.body(each)
    return found
