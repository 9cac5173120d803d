"""A ledger whose runs were verified before: their entries are taken as they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tapestry.audit.verify import Verifier
from tapestry.errors import IntegrityError
from tapestry.ledger import tree
from tapestry.ledger.entries import CONSORTIUM, Entry


class Believing(Verifier):
    """Takes the entries of runs as they stand, and holds those of the consortium against the rules. Of the
    tree it keeps no root of each size."""

    def __init__(self, told: Callable[[int], None], kept: tree.Tree) -> None:
        super().__init__(told)
        self._kept = kept
        self._closed: dict[tuple[str, int], Counter[str]] = {}
        """By run and round: weights by member of what is merged next."""

    def root(self, size: int) -> bytes:
        return self._kept.root(size)

    def _add(self, leaf: bytes) -> None:
        self._kept.add(leaf)
        self.found.entries += 1
        self._told(self.found.entries)

    def _entry(self, entry: Entry) -> None:
        if entry.scope == CONSORTIUM:
            super()._entry(entry)
            return
        if entry.sequence != self.found.entries + 1:
            raise IntegrityError(f"after entry {self.found.entries} comes entry {entry.sequence}")
        self._weigh(entry)
        self._blobs.clear()
        self._add(tree.leaf_hash(entry.to_bytes()))

    def _weigh(self, entry: Entry) -> None:
        """Votes by contribution go by the merges, so that decisions can be repeated without their rules."""
        if entry.type == "round-closed":
            given = self._closed[entry.scope, entry.body["round"]] = Counter()
            for each in entry.body["merged"]:
                given[each["member"]] += each["weight"]
        elif entry.type in ("round-abandoned", "round-committed"):
            given = self._closed.pop((entry.scope, entry.body["round"]), Counter())
            if entry.type == "round-committed" and self._assembly.governance.counted_from is not None:
                self._merges.append(given)
