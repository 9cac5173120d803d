"""What the core says of its ledger: the tree's head, signed, and proofs about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from tapestry.audit.file import Line
from tapestry.core.consortium import Consortium
from tapestry.core.journal import Journal
from tapestry.identity.envelope import Envelope
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry
from tapestry.storage.blobs import BlobStore

BATCH_BYTES: Final = 8 << 20
NAMING: Final = ("contribution-received", "contribution-late")
"""Entries that name an envelope."""


class Proofs:
    """Of one core's ledger. A head is only ever read from the log, which nothing is taken out of, so no two
    that are signed contradict each other."""

    def __init__(self, journal: Journal, consortium: Consortium) -> None:
        self._journal = journal
        self._consortium = consortium

    def checkpoint(self) -> bytes:
        """The newest head as a signed note."""
        return self._signed(*self._journal.tree_head())

    def inclusion(self, sequence: int, size: int) -> dict[str, Any]:
        """That an entry is among the first `size`. Raises `NotFound`."""
        return {"sequence": sequence, "size": size, "proof": _hex(self._journal.inclusion(sequence, size))}

    def consistency(self, old: int, new: int) -> dict[str, Any]:
        """That the first `new` entries begin with the first `old`. Raises `NotFound`."""
        return {"old": old, "new": new, "proof": _hex(self._journal.consistency(old, new))}

    def lines(self, store: BlobStore) -> Iterator[Line]:
        """The whole ledger up to its newest head, for `audit.file.write`. Raises `NotFound` where an envelope
        is lost."""
        size, root = self._journal.tree_head()
        done = 0
        while done < size:
            batch, _ = self._journal.entries(done, limit=size - done, max_bytes=BATCH_BYTES)
            for entry in map(Entry.from_bytes, batch):
                if entry.type in NAMING:
                    yield "blob", store.read(entry.body["contribution"], Envelope.MAX_BYTES)
                yield "entry", entry
                done = entry.sequence
        yield "checkpoint", self._signed(size, root).decode()

    def _signed(self, size: int, root: bytes) -> bytes:
        origin = origin_of(self._consortium.id)
        note = Note(Checkpoint(origin, size, root).text)
        return note.signed(origin, self._consortium.core_key).to_bytes()


def _hex(proof: Sequence[bytes]) -> list[str]:
    return [each.hex() for each in proof]
