"""What the core says of its ledger: the tree's head, signed, and proofs about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapestry.core.consortium import Consortium
from tapestry.core.journal import Journal
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of


class Proofs:
    """Of one core's ledger. A head is only ever read from the log, which nothing is taken out of, so no two
    that are signed contradict each other."""

    def __init__(self, journal: Journal, consortium: Consortium) -> None:
        self._journal = journal
        self._consortium = consortium

    def checkpoint(self) -> bytes:
        """The newest head as a signed note."""
        size, root = self._journal.tree_head()
        origin = origin_of(self._consortium.id)
        note = Note(Checkpoint(origin, size, root).text)
        return note.signed(origin, self._consortium.core_key).to_bytes()

    def inclusion(self, sequence: int, size: int) -> dict[str, Any]:
        """That an entry is among the first `size`. Raises `NotFound`."""
        return {"sequence": sequence, "size": size, "proof": _hex(self._journal.inclusion(sequence, size))}

    def consistency(self, old: int, new: int) -> dict[str, Any]:
        """That the first `new` entries begin with the first `old`. Raises `NotFound`."""
        return {"old": old, "new": new, "proof": _hex(self._journal.consistency(old, new))}


def _hex(proof: Sequence[bytes]) -> list[str]:
    return [each.hex() for each in proof]
