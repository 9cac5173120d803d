"""What the core tells of a run: where it stands, and what a committed round was made of."""

from __future__ import annotations

from collections.abc import Mapping

from tapestry.core.journal import Journal, Standing
from tapestry.errors import HashMismatch, NotFound
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.messages import Contribution, Progress
from tapestry.protocol.views import RoundRecord, RunView
from tapestry.rounds import events as ev
from tapestry.rounds.state import RunState
from tapestry.rounds.view import view_of
from tapestry.rounds.waiting import waiting_for
from tapestry.storage.blobs import BlobStore


def run_view(
    standing: Standing[RunState], now_ms: int, progress: Mapping[str, Progress], trouble: str | None
) -> RunView:
    """Where a run stands.

    Args:
        standing: its state.
        now_ms: by the core's clock.
        progress: newest word of each node.
        trouble: what keeps the core from its own part, if anything.
    """
    state = standing.state
    return view_of(
        state, standing.sequence, waiting_for=trouble or waiting_for(state, now_ms), progress=progress
    )


def trouble_of(run: str, trouble: Mapping[str, str]) -> str | None:
    """What of a coordinator's `trouble` keeps this run."""
    return trouble.get(run) or trouble.get(CONSORTIUM)


def round_record(journal: Journal, store: BlobStore, run: str, round: int) -> RoundRecord:
    """Everything needed to repeat the merge of a round. Raises `NotFound` until it is committed."""
    entries = journal.of_round(run, round, "round-opened", "round-closed", "round-committed")
    found = {entry.type: ev.parse_event(entry.type, entry.body) for entry in entries}
    opened, closed, committed = (found.get(t) for t in ("round-opened", "round-closed", "round-committed"))
    if not (
        isinstance(opened, ev.RoundOpened)
        and isinstance(closed, ev.RoundClosed)
        and isinstance(committed, ev.RoundCommitted)
    ):
        raise NotFound(f"round {round} of run {run} is not committed")
    return RoundRecord(
        run=run,
        round=round,
        fragment=closed.fragment,
        plan=opened.plan,
        before=opened.state,
        after=committed.state,
        merged=closed.merged,
        envelopes=tuple(store.read(merged.contribution).decode("ascii") for merged in closed.merged),
    )


def environments(store: BlobStore, state: RunState) -> dict[str, dict[str, str]]:
    """Node → on what it trained, as it signed it with its newest contribution to the rounds a state still
    holds. A node's own word: nothing here can check it."""
    found: dict[str, dict[str, str]] = {}
    for at in state.rounds:
        for node, submission in at.submissions.items():
            try:
                envelope = Envelope.from_bytes(store.read(submission.contribution, Envelope.MAX_BYTES))
            except (NotFound, HashMismatch):
                continue
            found[node] = envelope.unverified(Contribution).environment
    return dict(sorted(found.items()))


def received(journal: Journal, run: str, round: int, contribution: str) -> tuple[Entry, ev.Arrived] | None:
    """The entry that records the receipt of an envelope, if there is one."""
    for entry in journal.of_round(run, round, *ev.ARRIVED):
        event = ev.parse_event(entry.type, entry.body)
        if isinstance(event, ev.Arrived) and event.contribution == contribution:
            return entry, event
    return None
