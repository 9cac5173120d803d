"""The newest base of a run made anew, where the core that is lost was the only one to have it.

The core records a merge before anybody else has repeated it. The ledger says what it was made of: the state
before, the contributions in their order with their weights, and the state that came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tapestry.core.coordinator import Replay
from tapestry.core.deltas import read_message
from tapestry.core.runs import Runs
from tapestry.errors import IntegrityError, MergeMismatch, NotFound
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.plan import Plan
from tapestry.replay.job import MergeJob
from tapestry.rounds import events as ev

STEPS = ("round-opened", "round-closed", "round-committed")


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A merge as the event log has it."""

    opened: ev.RoundOpened
    closed: ev.RoundClosed
    committed: ev.RoundCommitted


class Repeater:
    """Of one core that does not serve.

    Args:
        runs: the core's runs.
        replay: does the arithmetic.
    """

    def __init__(self, runs: Runs, replay: Replay) -> None:
        self._runs = runs
        self._store = runs.store
        self._replay = replay

    def repeat(self) -> int:
        """For each run whose newest state is not whole here, repeat the merges from the newest one that is,
        where all their contributions are here; how many merges that were.

        Raises:
            MergeMismatch: another state comes out than the ledger has.
            TapestryError: as of the merge itself; what lacks is no error.
        """
        return sum(self._run(run) for run in self._runs.names())

    def _run(self, run: str) -> int:
        due: list[Recorded] = []
        sha = self._runs.standing(run).state.head
        merges = self._merges(run)
        while not self._has_state(sha):
            at = next(merges, None)
            if at is None or not all(self._has(merged.delta) for merged in at.closed.merged):
                return 0
            due.append(at)
            sha = at.opened.state
        for at in reversed(due):
            self._merge(run, at)
        return len(due)

    def _merge(self, run: str, at: Recorded) -> None:
        plan = read_message(self._store, at.opened.plan, Plan)
        job = MergeJob.of(plan, state=at.opened.state, contributions=at.closed.merged, durable=True)
        result = self._replay.merge(job)
        if result.state != at.committed.state:
            raise MergeMismatch(
                f"merge {at.committed.merges} of run {run} gives state {result.state[:12]}, "
                f"the ledger has {at.committed.state[:12]}",
                hint="the core that was lost has merged wrongly; its nodes will not go on from there",
            )

    def _merges(self, run: str) -> Iterator[Recorded]:
        """Newest first."""
        for number in range(self._runs.standing(run).state.head_round, 0, -1):
            found: dict[type, ev.Event] = {}
            for entry in self._runs.journal.of_round(run, number, *STEPS):
                event = ev.parse_event(entry.type, entry.body)
                found[type(event)] = event
            opened, closed = found.get(ev.RoundOpened), found.get(ev.RoundClosed)
            committed = found.get(ev.RoundCommitted)
            if (
                isinstance(opened, ev.RoundOpened)
                and isinstance(closed, ev.RoundClosed)
                and isinstance(committed, ev.RoundCommitted)
            ):
                yield Recorded(opened=opened, closed=closed, committed=committed)

    def _has_state(self, sha: str) -> bool:
        """With its base, and its momentum where it has one."""
        try:
            state = read_message(self._store, sha, State)
        except (IntegrityError, NotFound):
            return False
        return all(self._has(each) for each in (state.base, state.outer) if each is not None)

    def _has(self, artifact: str) -> bool:
        """Manifest and all shards."""
        try:
            shards = read_message(self._store, artifact, Artifact).shards
        except (IntegrityError, NotFound):
            return False
        return all(map(self._store.verify, shards))
