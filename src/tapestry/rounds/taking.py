"""Taking in a contribution: which round's merge it enters, and what is wrong with one that enters none."""

from __future__ import annotations

from typing import Final

from tapestry.errors import Busy, Conflict, NotFound, Refused, TapestryError
from tapestry.rounds import events as ev
from tapestry.rounds.inputs import Contribute, Reveal
from tapestry.rounds.state import Round, RunState

NOT_REVEALED: Final = "not-revealed"
"""Why a contribution is refused of which the bytes did not come in time."""


class RecordedRefusal(Exception):
    """A refusal that is itself an event."""

    def __init__(self, refusal: TapestryError, *events: ev.Event) -> None:
        self.refusal = refusal
        self.events = events


def _passed_over(at: Round, node: str) -> bool:
    """What is late is noted once of each node that was expected, or anybody could fill the ledger."""
    return node in at.late or node not in at.nodes


def contribute(state: RunState, given: Contribute, now_ms: int) -> tuple[ev.Event, ...]:
    """What follows from a contribution; () for one that is known.

    Raises:
        NotFound, Refused, Conflict: why it enters no merge.
        Busy: it may be sent again in a moment.
        RecordedRefusal: it is refused, and that is to be recorded.
    """
    what = f"contribution of {given.node} to round {given.round} of run {state.run}"
    at = state.find(given.round, given.fragment)
    if at is None:
        if given.round > state.last_round:
            raise NotFound(f"round {given.round} of run {state.run} is not open")
        raise Refused(f"{what} is late: that round ended long ago")
    own = state.submission(given.node, at)
    if own is not None and own.contribution == given.contribution:
        return ()
    trained, at = at, _enters(state, at, what)
    before = at.submissions.get(given.node)
    if at.phase != "training":
        if _passed_over(at, given.node):
            raise Refused(f"{what} is late")
        raise RecordedRefusal(
            Refused(f"{what} is late: the round is {at.phase}", hint="go on with the next round"),
            ev.ContributionLate(
                round=given.round,
                fragment=given.fragment,
                node=given.node,
                contribution=given.contribution,
            ),
        )
    if any(one is not None and one.status != "refused" for one in (own, before)):
        raise Conflict(f"{what} came already, with other bytes", hint="a node contributes once a round")
    if given.node not in trained.nodes or given.node not in at.nodes:
        raise Refused(f"{what}: that node is not expected in this round", hint="wait for the next round")
    if given.state != trained.state:
        raise Refused(
            f"{what} was trained from state {given.state[:12]}, the round's base is {trained.state[:12]}",
            hint="fetch the round again and train from its state",
        )
    if given.plan != state.plan.digest:
        raise Refused(f"{what} names plan {given.plan[:12]}, in force is {state.plan.digest[:12]}")
    steps = state.plan.inner.steps_at(trained.merges, given.member)
    tokens = state.plan.inner.tokens_in(given.steps)
    if given.steps > steps or given.tokens > tokens:
        raise Refused(
            f"{what} claims {given.tokens} tokens in {given.steps} steps; the plan allows {steps} steps, "
            f"and {tokens} tokens in so many"
        )
    kind: type[ev.ContributionReceived | ev.ContributionCommitted] = ev.ContributionReceived
    if state.plan.rounds.reveal_s is not None:
        kind = ev.ContributionCommitted
        if (other := _of_another(at, given)) is not None:
            raise Refused(f"{what} names the bytes that node {other} is to send")
    return (
        kind(
            round=at.round,
            fragment=at.fragment,
            node=given.node,
            member=given.member,
            contribution=given.contribution,
            delta=given.delta,
            tokens=given.tokens,
            steps=given.steps,
            lag=at.round - trained.round,
            received_ms=now_ms,
        ),
    )


def _of_another(at: Round, given: Contribute) -> str | None:
    """Who has committed the same bytes. Before they are seen nobody can have made them too."""
    sent = (s for s in at.submissions.values() if s.node != given.node and s.status != "refused")
    return next((s.node for s in sent if s.delta == given.delta), None)


def reveal(state: RunState, given: Reveal, now_ms: int) -> tuple[ev.Event, ...]:
    """What follows when the bytes are here that were committed; () for those that are known.

    Raises:
        NotFound: nothing of the kind was committed.
        Refused: it is too late, or the node takes part no more.
        Busy: the round is not sealed yet.
    """
    what = f"contribution of {given.node} in run {state.run}"
    found = state.sent(given.node, given.contribution)
    if found is None:
        raise NotFound(f"{what}: {given.contribution[:12]} was not committed")
    at, own = found
    if own.status == "refused" and own.reason == NOT_REVEALED:
        raise Refused(f"{what} to round {at.round}: its bytes came too late", hint="go on")
    if own.status != "committed":
        return ()
    if at.phase != "revealing":
        raise Busy(f"{what}: round {at.round} is not sealed yet", hint="try again when it is")
    if given.node not in state.enrolled:
        raise Refused(f"{what}: that node takes part no more")
    fields = own.model_dump(exclude={"status", "reason"}) | {"received_ms": now_ms}
    return (ev.ContributionRevealed(round=at.round, fragment=at.fragment, **fields),)


def _enters(state: RunState, trained: Round, what: str) -> Round:
    """The round whose merge a contribution enters: the one it was trained in, or the one now open where that
    is over and the plan allows it."""
    allowed = state.plan.rounds.staleness
    if trained.phase == "training" or not 0 <= state.last_round - trained.round <= allowed:
        return trained
    at = state.current
    if at is None or not allowed:
        return trained
    if at.phase != "training":
        raise Busy(f"{what} is late, and the round it can enter is not open yet", hint="try again")
    return at
