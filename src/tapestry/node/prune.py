"""Erasing blobs a node needs no more: states before the last two (but not the first, from which the kept
contributions lead to all others, nor one that a late round is trained from), contributions beyond the plan's
retention.

What is erased by mistake is fetched again; what is needed now is never touched.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final

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


class Pruner:
    """Of one home."""

    def __init__(self, home: Home, store: BlobStore, memory: Memory) -> None:
        self._home = home
        self._store = store
        self._memory = memory
        self._sent: dict[str, dict[tuple[str, int], frozenset[str]]] = {}
        """By run, for each run and round that is kept: blobs of contributions that a state could share."""

    def prune(self, run: str, plan: Plan, others: Iterable[str], held: Container[str] = ()) -> int:
        """Erase what this run needs no more; returns how many blobs.

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
        sizes = frozenset(self._state(memory.head.state).values())
        old: set[str] = set()
        for state in gone_states:
            old |= {state, *self._state(state)}
        for number in range(memory.pruned_round + 1, upto + 1):
            old |= self._round(run, number).keys()
        old -= self._live([run, *others], held) | {plan.initial_state, *self._state(plan.initial_state)}
        first = {each: self._memory[each].pruned_round + 1 for each in others} | {run: upto + 1}
        old -= self._of_contributions(run, first, sizes, old)
        for sha in old:
            self._store.delete(sha)
        older = tuple(state for state in memory.older if state in stay)
        self._memory.set(run, older=older, pruned_round=upto)
        return len(old)

    def _live(self, runs: Iterable[str], held: Container[str]) -> set[str]:
        live: set[str] = set()
        for run in runs:
            memory = self._memory[run]
            states = [memory.head.state] if memory.head is not None else []
            states += [state for state in memory.older if state in held]
            for state in (*states, *memory.older[-KEPT_OLDER:]):
                live |= {state, *self._state(state)}
            if memory.contribution is not None:
                live |= self._artifact(memory.contribution.delta).keys()
        return live

    def _of_contributions(
        self, run: str, first: Mapping[str, int], sizes: frozenset[int], asked: set[str]
    ) -> set[str]:
        """Those of the asked blobs that contributions to kept rounds consist of. The mean of one update is
        that update, byte by byte, so that a momentum and a contribution may be one blob.

        Args:
            run: that the asked blobs are of.
            first: by run, the first round that is kept.
            sizes: bytes of the shards of the run's states; no other blob can be one of theirs.
            asked: what is to be erased.
        """
        before, known = self._sent.get(run, {}), {}
        for each, begin in first.items():
            head = self._memory[each].head
            for number in range(begin, head.round + 1 if head is not None else begin):
                key = each, number
                known[key] = before[key] if key in before else self._alike(each, number, sizes)
        self._sent[run] = known
        return {sha for shas in known.values() for sha in shas & asked}

    def _alike(self, run: str, number: int, sizes: frozenset[int]) -> frozenset[str]:
        return frozenset(sha for sha, size in self._round(run, number).items() if size in sizes)

    def _state(self, sha: str) -> dict[str, int]:
        """Bytes by digest of a state's manifests and shards, and so below."""
        try:
            state = State.from_bytes(self._store.read(sha, State.MAX_BYTES))
        except TapestryError:
            return {}
        found = self._artifact(state.base)
        return found if state.outer is None else found | self._artifact(state.outer)

    def _artifact(self, sha: str) -> dict[str, int]:
        try:
            return {blob.sha256: blob.bytes for blob in blobs_of(self._store, sha)}
        except TapestryError:
            return {}

    def _round(self, run: str, number: int) -> dict[str, int]:
        path = self._home.records / f"{round_name(run, number)}.json"
        try:
            record = RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))
        except (OSError, TapestryError):
            return {}
        found: dict[str, int] = {}
        for merged in record.merged:
            found |= self._artifact(merged.delta)
        return found
