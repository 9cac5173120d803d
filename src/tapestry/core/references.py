"""Which blobs the event log names: what a copy of a core has to hold, whatever a listing says.

The listing of an object store may lag behind or be cut short; what lies in no cache is then found by its
name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from tapestry.core.journal import Journal
from tapestry.core.retention import last_erased
from tapestry.core.runs import Runs
from tapestry.errors import IntegrityError, NotFound
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.artifact import Artifact, Model, State
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.protocol.message import Message
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev

M = TypeVar("M", bound=Message)
Read = Callable[[str, int], bytes]
"""Takes the name of a blob and how many bytes it has at most. Raises `NotFound` or `IntegrityError`."""
PAGE: Final = 1000
PAGE_BYTES: Final = 8 << 20


class References:
    """Of one core.

    Args:
        runs: the core's runs.
        read: gets the messages (states, manifests, models) that name further blobs.
    """

    def __init__(self, runs: Runs, read: Read) -> None:
        self._runs = runs
        self._read = read

    def named(self) -> Iterator[str]:
        """Every blob that is to be there, some of them more than once: all of each plan, its model and each
        state; every envelope; manifest of each contribution that was not refused, and its shards as long as
        the plan keeps them."""
        upto = {run: last_erased(self._runs.standing(run).state) for run in self._runs.names()}
        received: dict[str, tuple[str, ev.Arrived]] = {}
        for run, event in _events(self._runs.journal):
            if isinstance(event, ev.RunPlanned | ev.PlanRevised):
                yield from self._plan(event.plan)
            elif isinstance(event, ev.RoundCommitted):
                yield from self._state(event.state)
            elif isinstance(event, ev.Arrived):
                received[event.contribution] = (run, event)
            elif isinstance(event, ev.ContributionCommitted | ev.ContributionLate):
                yield event.contribution
            elif isinstance(event, ev.NodeEnrolled):
                yield event.enrolment
            elif isinstance(event, ev.BaseAttested):
                yield event.attestation
            elif isinstance(event, ev.ScorePublished):
                yield event.score
            elif isinstance(event, ev.ContributionRefused):
                received.pop(event.contribution, None)
                yield event.contribution
        for run, contribution in received.values():
            yield contribution.contribution
            if contribution.round > upto.get(run, 0):
                yield from self._artifact(contribution.delta)
            else:
                yield contribution.delta

    def _plan(self, plan: Plan) -> Iterator[str]:
        yield from (plan.digest, plan.layout, plan.model)
        model = self._message(plan.model, Model)
        if model is not None:
            yield from (file.blob.sha256 for file in model.files)
        yield from self._state(plan.initial_state)

    def _state(self, sha: str) -> Iterator[str]:
        yield sha
        state = self._message(sha, State)
        if state is not None:
            yield from self._artifact(state.base)
            if state.outer is not None:
                yield from self._artifact(state.outer)

    def _artifact(self, sha: str) -> Iterator[str]:
        yield sha
        artifact = self._message(sha, Artifact)
        if artifact is not None:
            yield from (blob.sha256 for blob in artifact.shards)

    def _message(self, sha: str, kind: type[M]) -> M | None:
        """None where it is lost: then nobody knows what it named."""
        try:
            return kind.from_bytes(self._read(sha, min(kind.MAX_BYTES, MAX_BLOB_BYTES)))
        except (IntegrityError, NotFound):
            return None


def _events(journal: Journal) -> Iterator[tuple[str, ev.Event]]:
    """All events of all runs, oldest first, each with its run."""
    after = 0
    while True:
        entries, _ = journal.entries(after, limit=PAGE, max_bytes=PAGE_BYTES)
        if not entries:
            return
        for entry in map(Entry.from_bytes, entries):
            after = entry.sequence
            if entry.scope != CONSORTIUM:
                yield entry.scope, ev.parse_event(entry.type, entry.body)
