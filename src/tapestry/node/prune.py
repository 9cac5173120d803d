"""Erasing blobs a node needs no more: states before the last two (but not the first, from which the kept
contributions lead to all others, nor one that a late round is trained from), contributions beyond the plan's
retention.

What is erased by mistake is fetched again; what is needed now is never touched.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
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

    def prune(self, run: str, plan: Plan, others: Iterable[str], held: Container[str] = ()) -> int:
        """Erase what this run needs no more; returns how many blobs.

        Args:
            run: whose blobs.
            plan: in force.
            others: the other runs of this node, whose states stay.
            held: older states that somebody still trains from.
        """
        memory = self._memory[run]
        if memory.head is None:
            return 0
        stay = {*(state for state in memory.older if state in held), *memory.older[-KEPT_OLDER:]}
        gone_states = [state for state in memory.older if state not in stay]
        upto = min(memory.head.round - plan.retention.blob_rounds, memory.pruned_round + ROUNDS_AT_ONCE)
        if not gone_states and upto <= memory.pruned_round:
            return 0
        candidates: set[str] = set()
        for state in gone_states:
            candidates |= {state} | self._state(state)
        for number in range(memory.pruned_round + 1, upto + 1):
            candidates |= self._round(run, number)
        live = self._live([run, *others], held) | {plan.initial_state} | self._state(plan.initial_state)
        for sha in candidates - live:
            self._store.delete(sha)
        older = tuple(state for state in memory.older if state in stay)
        self._memory.set(run, older=older, pruned_round=max(memory.pruned_round, upto))
        return len(candidates - live)

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

    def _round(self, run: str, number: int) -> set[str]:
        path = self._home.records / f"{round_name(run, number)}.json"
        try:
            record = RoundRecord.from_bytes(files.read_limited(path, RoundRecord.MAX_BYTES))
        except (OSError, TapestryError):
            return set()
        return {sha for merged in record.merged for sha in self._artifact(merged.delta)}
