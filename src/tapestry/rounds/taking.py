"""Taking in a contribution: which round's merge it enters, and what is wrong with one that enters none."""

from __future__ import annotations

from tapestry.errors import Busy, Conflict, NotFound, Refused, TapestryError
from tapestry.rounds import events as ev
from tapestry.rounds.inputs import Contribute
from tapestry.rounds.state import Round, RunState


class RecordedRefusal(Exception):
    """A refusal that is itself an event."""

    def __init__(self, refusal: TapestryError, *events: ev.Event) -> None:
        self.refusal = refusal
        self.events = events


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
        if at.late.get(given.node) == given.contribution:
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
    return (
        ev.ContributionReceived(
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
