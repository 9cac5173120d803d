"""The rules of a run, as a pure state machine.

    step(state, input, now_ms) -> Step(state, events, refusal)

`events` are recorded in one transaction with the new state; then `refusal`, if any, is raised to
whoever asked. What is to be done outside (screen a contribution, merge a round) is derived from
the state by `work`, so that after a crash it is simply done again; every input may come twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from tapestry.errors import Conflict, InfeasibleCap, PlanError, Refused, TapestryError
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev
from tapestry.rounds.inputs import (
    Attest,
    Contribute,
    Enrol,
    Input,
    MergeDone,
    MergeFailed,
    Publish,
    Reveal,
    Revise,
    Screened,
    Start,
    Tick,
    Withdraw,
)
from tapestry.rounds.state import Round, RunState, Submission, evolve
from tapestry.rounds.taking import NOT_REVEALED, RecordedRefusal, contribute, reveal
from tapestry.rounds.weights import Share, cap_can_be_met, merge_weights

__all__ = [
    "Attest",
    "Contribute",
    "Enrol",
    "Input",
    "MergeDone",
    "MergeFailed",
    "Publish",
    "Reveal",
    "Revise",
    "Screened",
    "Start",
    "Step",
    "Tick",
    "Withdraw",
    "Work",
    "check_plan",
    "nodes_needed",
    "plan_run",
    "step",
    "work",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What an input led to."""

    state: RunState
    events: tuple[ev.Event, ...]
    refusal: TapestryError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What the state asks of the world outside; doing it twice has no other effect than once."""

    screen: tuple[tuple[Round, Submission], ...] = ()
    merge: tuple[Round, ...] = ()
    wake_ms: int | None = None
    """A `Tick` is due at this time."""


def plan_run(plan: Plan) -> Step:
    """The first event of a run. Raises `PlanError` where the plan cannot be run."""
    check_plan(plan)
    event = ev.RunPlanned(plan=plan)
    return Step(state=evolve(None, event), events=(event,))


def check_plan(plan: Plan) -> None:
    """Raise `PlanError` for rules that contradict each other."""
    cap, quorum = plan.merge.influence_cap, plan.rounds.quorum
    if not cap_can_be_met(cap, quorum):
        raise PlanError(
            f"merge.influence_cap {cap} cannot be met by a quorum of {quorum}: quorum · cap is below 1",
            hint="raise rounds.quorum or merge.influence_cap",
        )


def step(state: RunState, given: Input, now_ms: int) -> Step:
    """Apply one input, and then whatever follows from it by the rules alone."""
    refusal: TapestryError | None = None
    events: list[ev.Event] = []
    try:
        first = _decide(state, given, now_ms)
    except RecordedRefusal as recorded:
        first, refusal = recorded.events, recorded.refusal
    for event in first:
        state = evolve(state, event)
        events.append(event)
    while True:
        follow = _settle(state, now_ms)
        if not follow:
            return Step(state=state, events=tuple(events), refusal=refusal)
        for event in follow:
            state = evolve(state, event)
            events.append(event)


def work(state: RunState) -> Work:
    """What is to be done outside, derived from the state alone."""
    if state.status != "running":
        return Work()
    open_rounds = [r for r in state.rounds if r.open]
    deadlines = [r.deadline_ms for r in open_rounds if r.phase != "merging"]
    return Work(
        screen=tuple((r, s) for r in open_rounds for s in r.with_status("received")),
        merge=tuple(r for r in open_rounds if r.phase == "merging"),
        wake_ms=min(deadlines, default=None),
    )


def _decide(state: RunState, given: Input, now_ms: int) -> tuple[ev.Event, ...]:
    match given:
        case Start():
            return (ev.RunStarted(),) if state.status == "planned" else ()
        case Revise():
            return _revise(state, given.plan)
        case Enrol():
            return _enrol(state, given)
        case Withdraw():
            if given.node not in state.enrolled:
                return ()
            return (ev.NodeWithdrawn(node=given.node, reason=given.reason),)
        case Contribute():
            return contribute(state, given, now_ms)
        case Reveal():
            return reveal(state, given, now_ms)
        case Screened():
            return _screened(state, given)
        case MergeDone():
            return _merge_done(state, given)
        case MergeFailed():
            return _merge_failed(state, given)
        case Attest():
            return _attest(state, given)
        case Publish():
            return (
                ev.ScorePublished(
                    node=given.node,
                    member=given.member,
                    merges=given.merges,
                    state=given.state,
                    bits_per_byte=given.bits_per_byte,
                    bytes=given.bytes,
                    score=given.score,
                ),
            )
        case Tick():
            return ()


def _revise(state: RunState, plan: Plan) -> tuple[ev.Event, ...]:
    if state.status == "finished":
        raise Conflict(f"run {state.run} is finished; its plan cannot be revised")
    newest = state.next_plan or state.plan
    if plan == newest:
        return ()
    changed = [f for f in Plan.FIXED if getattr(plan, f) != getattr(state.plan, f)]
    if changed:
        raise PlanError(
            f"a revision may not change {', '.join(changed)} of run {state.run}",
            hint="plan a new run instead",
        )
    if plan.streaming.fragments != state.plan.streaming.fragments:
        raise PlanError(
            f"a revision may not change streaming.fragments of run {state.run}: its layout is cut by them",
            hint="plan a new run instead",
        )
    if plan.witness.quorum < newest.witness.quorum or plan.witness.members != newest.witness.members:
        raise PlanError(
            f"a revision may not make it easier to find a quorum of witnesses for run {state.run}",
            hint="keep witness.members and take a witness.quorum no smaller, or plan a new run",
        )
    if plan.revision != newest.revision + 1:
        raise PlanError(
            f"revision {plan.revision} does not follow revision {newest.revision} of run {state.run}",
            hint=f"set revision = {newest.revision + 1}",
        )
    if plan.rounds.total < state.merges:
        raise PlanError(f"rounds.total {plan.rounds.total} is below the {state.merges} merges done")
    check_plan(plan)
    return (ev.PlanRevised(plan=plan),)


def _enrol(state: RunState, given: Enrol) -> tuple[ev.Event, ...]:
    if state.status == "finished":
        raise Conflict(f"run {state.run} is finished")
    if state.enrolled.get(given.node, given.member) != given.member:
        raise Conflict(f"node {given.node} belongs to member {state.enrolled[given.node]}")
    if given.node in state.enrolled:
        return ()
    if given.node in state.withdrawn:
        raise Refused(f"the operator has withdrawn node {given.node} from run {state.run}")
    known = {plan.digest for plan in (state.plan, state.next_plan) if plan is not None}
    if given.plan not in known:
        raise Conflict(
            f"node {given.node} accepts plan {given.plan[:12]}, which is not in force",
            hint="fetch the run again and accept the plan in force",
        )
    return (ev.NodeEnrolled(node=given.node, member=given.member, enrolment=given.enrolment),)


def _screened(state: RunState, given: Screened) -> tuple[ev.Event, ...]:
    at = state.find(given.round, given.fragment)
    submission = at.submissions.get(given.node) if at is not None else None
    if submission is None or (submission.contribution, submission.status) != (
        given.contribution,
        "received",
    ):
        return ()
    event: ev.Event
    if given.reason is None:
        event = ev.ContributionAccepted(
            round=given.round,
            fragment=given.fragment,
            node=given.node,
            contribution=given.contribution,
        )
    else:
        event = ev.ContributionRefused(
            round=given.round,
            fragment=given.fragment,
            node=given.node,
            contribution=given.contribution,
            reason=given.reason,
        )
    return (event,)


def _merge_done(state: RunState, given: MergeDone) -> tuple[ev.Event, ...]:
    at = state.find(given.round, given.fragment)
    if at is None or at.phase != "merging":
        return ()
    return (
        ev.RoundCommitted(
            round=given.round,
            fragment=given.fragment,
            merges=state.merges + 1,
            state=given.state,
            base=given.base,
            outer=given.outer,
        ),
    )


def _merge_failed(state: RunState, given: MergeFailed) -> tuple[ev.Event, ...]:
    at = state.find(given.round, given.fragment)
    if at is None or at.phase != "merging":
        return ()
    return (
        ev.RoundAbandoned(
            round=given.round, fragment=given.fragment, reason=given.reason, detail=given.detail[:400]
        ),
    )


def _attest(state: RunState, given: Attest) -> tuple[ev.Event, ...]:
    what = f"attestation of {given.node} for merge {given.merges} of run {state.run}"
    if not state.merged or (given.merges, given.state, given.round) != (
        state.merges,
        state.head,
        state.head_round,
    ):
        raise Conflict(
            f"{what}: it names state {given.state[:12]}, the newest is {state.head[:12]} after merge "
            f"{state.merges}"
        )
    if state.enrolled.get(given.node) != given.member or not state.plan.witness.counts(given.member):
        raise Refused(f"{what}: that node is no witness of this run")
    if given.node in state.attested:
        return ()
    return (
        ev.BaseAttested(
            round=given.round,
            merges=given.merges,
            state=given.state,
            node=given.node,
            member=given.member,
            attestation=given.attestation,
        ),
    )


def _settle(state: RunState, now_ms: int) -> tuple[ev.Event, ...]:
    """What follows from the state and the time alone; () when nothing does."""
    if state.status != "running":
        return ()
    at = state.current
    if at is not None:
        return _go_on(state, at, now_ms) if at.phase != "merging" else ()
    if not state.witnessed:
        return ()
    plan = state.next_plan or state.plan
    if state.merges >= plan.rounds.total:
        return (ev.RunFinished(state=state.head),)
    if len(state.enrolled) < nodes_needed(state):
        return ()
    return (
        ev.RoundOpened(
            round=state.last_round + 1,
            fragment=state.merges % plan.streaming.fragments,
            plan=plan.digest,
            state=state.head,
            opened_ms=now_ms,
            deadline_ms=now_ms + round(plan.rounds.deadline_s * 1000),
            nodes=tuple(sorted(state.enrolled)),
        ),
    )


def nodes_needed(state: RunState) -> int:
    """Nodes that must be enrolled for a round to open: for the first `min_nodes`, later a quorum."""
    rounds = (state.next_plan or state.plan).rounds
    return rounds.quorum if state.last_round > state.plan.rounds_before else rounds.min_nodes


def _go_on(state: RunState, at: Round, now_ms: int) -> tuple[ev.Event, ...]:
    """End a phase when everyone expected has answered, or at the deadline with a quorum."""
    if at.with_status("received"):
        return ()  # the bytes of some are still looked at
    overdue = now_ms >= at.deadline_ms
    sealed, rules = at.phase == "revealing", state.plan.rounds
    if sealed:
        owing = at.with_status("committed")
        if not overdue and any(s.node in state.enrolled for s in owing):
            return ()
        if owing:
            named = ((s.node, s.contribution) for s in sorted(owing, key=lambda s: s.node))
            return tuple(
                ev.ContributionRefused(
                    round=at.round, fragment=at.fragment, node=node, contribution=each, reason=NOT_REVEALED
                )
                for node, each in named
            )
    elif not overdue and not all(n in at.submissions for n in at.nodes):
        return ()  # somebody may still answer
    merged = _merged(state, at.with_status("accepted"))
    if merged:
        return (ev.RoundClosed(round=at.round, fragment=at.fragment, merged=merged),)
    if rules.reveal_s is not None and _merged(state, at.with_status("committed")):
        return (
            ev.RoundSealed(
                round=at.round, fragment=at.fragment, deadline_ms=now_ms + round(rules.reveal_s * 1000)
            ),
        )
    if not overdue and not sealed:
        return ()
    if sealed or rules.below_quorum == "abandon":
        return (ev.RoundAbandoned(round=at.round, fragment=at.fragment, reason="below-quorum"),)
    newcomers = tuple(sorted(state.enrolled.keys() - set(at.nodes)))
    return (ev.RoundWidened(round=at.round, fragment=at.fragment, nodes=newcomers),) if newcomers else ()


def _merged(state: RunState, sent: tuple[Submission, ...]) -> tuple[Merged, ...]:
    """What is merged of these, in order, with their weights; () where they are no quorum."""
    rules, ordered = state.plan.merge, sorted(sent, key=lambda s: (s.member, s.node))
    if len(ordered) < max(1, state.plan.rounds.quorum):
        return ()
    try:
        weights = merge_weights(
            [Share(member=s.member, node=s.node, tokens=s.tokens, steps=s.steps, lag=s.lag) for s in ordered],
            weighting=rules.weighting,
            staleness_factor=rules.staleness_factor,
            influence_cap=rules.influence_cap,
        )
    except InfeasibleCap:
        return ()  # several nodes of one member can make a quorum that no cap allows
    return tuple(
        Merged(node=s.node, member=s.member, contribution=s.contribution, delta=s.delta, weight=w)
        for s, w in zip(ordered, weights, strict=True)
    )
