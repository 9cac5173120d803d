"""Erasing blobs a node needs no more: states before the last two (but not the first, from which the kept
contributions lead to all others, nor one that a late round is trained from), contributions beyond the plan's
retention.

What is erased by mistake is fetched again, as long as somebody has it; what is needed now is never touched.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping
from typing import Final, TypeAlias

from tapestry.errors import TapestryError
from tapestry.host import files
from tapestry.node.home import Home, round_name
from tapestry.node.memory import Memory
from tapestry.node.sync import blobs_of
from tapestry.protocol.artifact import State
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore

KEPT_OLDER: Final = 1
"""States before the head that stay: a trainer may still read the one just left."""
ROUNDS_AT_ONCE: Final = 64
SEEN_AT_ONCE: Final = 256
"""Rounds that are looked through at a call; each is once in the life of a process."""
Known: TypeAlias = "array[int]"
"""Beginnings of digests, 8 bytes each, ascending."""


class Pruner:
    """Of one home."""

    def __init__(self, home: Home, store: BlobStore, memory: Memory) -> None:
        self._home = home
        self._store = store
        self._memory = memory
        self._contributed: dict[tuple[str, int], Known] = {}
        """By run and round that is kept: what its contributions consist of."""

    def prune(self, run: str, plan: Plan, others: Iterable[str], held: Container[str] = ()) -> int:
        """Erase what this run needs no more; returns how many blobs. Nothing yet while rounds that are kept
        have not all been looked through since this process began; each call looks through some.

        Args:
            run: whose blobs.
            plan: in force.
            others: the other runs of this node, whose states and contributions stay.
            held: older states that somebody still trains from.
        """
        memory = self._memory[run]
        if memory.head is None:
            return 0
        others = list(others)
        stay = {*(state for state in memory.older if state in held), *memory.older[-KEPT_OLDER:]}
        gone_states = [state for state in memory.older if state not in stay]
        upto = min(memory.head.round - plan.retention.blob_rounds, memory.pruned_round + ROUNDS_AT_ONCE)
        if not gone_states and upto <= memory.pruned_round:
            return 0
        upto = max(memory.pruned_round, upto)
        kept = self._of_rounds({each: self._memory[each].pruned_round for each in others} | {run: upto})
        if kept is None:
            return 0
        old: set[str] = set()
        for state in gone_states:
            old |= {state} | self._state(state)
        for number in range(memory.pruned_round + 1, upto + 1):
            old |= self._round(run, number)[0]
        old -= self._live([run, *others], held) | {plan.initial_state} | self._state(plan.initial_state)
        gone = [sha for sha in old if not any(_holds(each, sha) for each in kept)]
        for sha in gone:
            self._store.delete(sha)
        older = tuple(state for state in memory.older if state in stay)
        self._memory.set(run, older=older, pruned_round=upto)
        return len(gone)

    def _live(self, runs: Iterable[str], held: Container[str]) -> set[str]:
        live: set[str] = set()
        for run in runs:
            memory = self._memory[run]
            states = [memory.head.state] if memory.head is not None else []
            states += [state for state in memory.older if state in held]
            for state in (*states, *memory.older[-KEPT_OLDER:]):
                live |= {state} | self._state(state)
            if memory.contribution is not None:
                live |= self._artifact(memory.contribution.delta)
        return live

    def _of_rounds(self, pruned: Mapping[str, int]) -> list[Known] | None:
        """Blobs that contributions to kept rounds consist of; None where there is more to look through.

        Equal bytes are one blob: the mean of one update is that update, so that a momentum may be one; and a
        tensor that nobody trained is in every update.

        Args:
            pruned: by run, up to which round nothing is kept.
        """
        heads = {run: head.round for run in pruned if (head := self._memory[run].head) is not None}
        wanted = [(run, number) for run, last in heads.items() for number in range(pruned[run] + 1, last + 1)]
        self._contributed = {key: self._contributed[key] for key in wanted if key in self._contributed}
        unknown = [key for key in wanted if key not in self._contributed]
        partly = []
        for run, number in unknown[:SEEN_AT_ONCE]:
            blobs, whole = self._round(run, number)
            known = array("Q", sorted(map(_short, blobs)))
            if whole:
                self._contributed[run, number] = known
            else:
                partly.append(known)  # a manifest may be fetched again
        return [*self._contributed.values(), *partly] if len(unknown) <= SEEN_AT_ONCE else None

    def _state(self, sha: str) -> set[str]:
        try:
            state = State.from_bytes(self._store.read(sha, State.MAX_BYTES))
        except TapestryError:
            return set()
        found = self._artifact(state.base)
        return found if state.outer is None else found | self._artifact(state.outer)

    def _artifact(self, sha: str) -> set[str]:
        try:
            return {blob.sha256 for blob in blobs_of(self._store, sha)}
        except TapestryError:
            return set()

    def _round(self, run: str, number: int) -> tuple[set[str], bool]:
        """What its contributions consist of, and whether that is all; nothing where none were here."""
        path = self._home.records / f"{round_name(run, number)}.json"
        try:
            record = RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))
        except (OSError, TapestryError):
            return set(), True
        parts = [self._artifact(merged.delta) for merged in record.merged]
        return set().union(*parts), all(parts)


def _short(sha: str) -> int:
    """Enough of a digest: of two that are alike in this both stay."""
    return int(sha[:16], 16)


def _holds(known: Known, sha: str) -> bool:
    short = _short(sha)
    at = bisect_left(known, short)
    return at < len(known) and known[at] == short
