"""Erasing what a plan does not keep: deltas of contributions to rounds older than `retention.blob_rounds`.

Only shards go. Manifests, envelopes, states and the event log stay, so it is always plain what was
there. Nothing is erased that an initial state, a head, a kept round or a round in flight refers to,
in any run of this core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tapestry.core.deltas import read_message
from tapestry.core.runs import Runs
from tapestry.errors import IntegrityError, NotFound
from tapestry.protocol.artifact import Artifact, State
from tapestry.rounds import events as ev
from tapestry.rounds.state import RunState

STATES: Final = ("round-opened", "round-committed")


class Retention:
    """Of one core. What it did is remembered for this process only; doing it again does nothing."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._store = runs.store
        self._upto: dict[str, int] = {}

    def erase(self, run: str) -> int:
        """Erase what has become too old in a run; returns how many blobs."""
        state = self._runs.standing(run).state
        upto = last_erased(state)
        done = self._upto.get(run, 0)
        if upto <= done:
            return 0
        found = self._shards(self._deltas(run, range(done + 1, upto + 1)))
        old = found - set(self._store.lacking(found))
        if old:
            for name in self._runs.names():
                old -= self._kept(self._runs.standing(name).state)
        self._store.delete_all(old)
        self._upto[run] = upto
        return len(old)

    def _kept(self, state: RunState) -> set[str]:
        rounds = range(last_erased(state) + 1, state.last_round + 1)
        states = {state.plan.initial_state, state.head, *self._states(state.run, rounds)}
        artifacts = {sha for each in states for sha in self._artifacts_of(each)}
        return self._shards({*artifacts, *self._deltas(state.run, rounds)})

    def _deltas(self, run: str, rounds: Iterable[int]) -> set[str]:
        events = self._events(run, rounds, *ev.ARRIVED)
        return {event.delta for event in events if isinstance(event, ev.Arrived)}

    def _states(self, run: str, rounds: Iterable[int]) -> set[str]:
        events = self._events(run, rounds, *STATES)
        return {event.state for event in events if isinstance(event, ev.RoundOpened | ev.RoundCommitted)}

    def _events(self, run: str, rounds: Iterable[int], *types: str) -> Iterator[ev.Event]:
        for number in rounds:
            for entry in self._runs.journal.of_round(run, number, *types):
                yield ev.parse_event(entry.type, entry.body)

    def _artifacts_of(self, state: str) -> tuple[str, ...]:
        try:
            found = read_message(self._store, state, State)
        except (IntegrityError, NotFound):
            return ()
        return (found.base,) if found.outer is None else (found.base, found.outer)

    def _shards(self, artifacts: Iterable[str]) -> set[str]:
        shards: set[str] = set()
        for sha in artifacts:
            try:
                shards.update(blob.sha256 for blob in read_message(self._store, sha, Artifact).shards)
            except (IntegrityError, NotFound):
                continue  # refused for its form, or lost: it names nothing
        return shards


def last_erased(state: RunState) -> int:
    """The newest round whose deltas the plan in force does not keep; 0 where it keeps all."""
    return max(0, state.head_round - state.plan.retention.blob_rounds)
