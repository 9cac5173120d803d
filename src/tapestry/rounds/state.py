"""Where a run stands: the fold of its events. Immutable and JSON-serialisable, for snapshots."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tapestry.errors import FormatError
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Merged, ReasonCode, RoundNumber
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev

KEPT_ROUNDS = 4
"""Ended rounds a state still holds, beside those that may still be contributed to, so that a repeated
contribution is recognised."""


class Submission(Part):
    """One node's contribution to one round."""

    node: Name
    member: Name
    contribution: Sha256
    delta: Sha256
    tokens: int
    steps: int
    lag: Annotated[int, Field(ge=0)] = 0
    received_ms: ev.Milliseconds
    status: Literal["committed", "received", "accepted", "refused"]
    reason: ReasonCode | None = None


class Round(Part):
    """One round of one fragment, from opening to its end."""

    round: RoundNumber
    fragment: FragmentNumber
    phase: Literal["training", "revealing", "merging", "committed", "abandoned"]
    state: Sha256
    """Trained from."""
    merges: Annotated[int, Field(ge=0)]
    """Of that state."""
    opened_ms: ev.Milliseconds
    deadline_ms: ev.Milliseconds
    """Of its phase."""
    nodes: tuple[Name, ...]
    submissions: dict[Name, Submission] = Field(default_factory=dict)
    late: dict[Name, Sha256] = Field(default_factory=dict)
    merged: tuple[Merged, ...] = ()
    abandoned: str | None = None
    """Why, in words."""

    @property
    def key(self) -> tuple[int, int]:
        return (self.round, self.fragment)

    @property
    def open(self) -> bool:
        return self.phase in ("training", "revealing", "merging")

    def with_status(self, status: str) -> tuple[Submission, ...]:
        return tuple(s for s in self.submissions.values() if s.status == status)


class RunState(Message):
    """Fold of a run's events."""

    format: Literal["tapestry.run-state"] = "tapestry.run-state"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    plan: Plan
    """In force."""
    next_plan: Plan | None = None
    """Revised; in force when the next round opens."""
    status: Literal["planned", "running", "finished"] = "planned"
    enrolled: dict[Name, Name] = Field(default_factory=dict)
    """Node → member."""
    withdrawn: tuple[Name, ...] = ()
    """Nodes the operator withdrew; they may not enrol again."""
    merges: Annotated[int, Field(ge=0)] = 0
    head: Sha256
    """Digest of the newest committed state."""
    head_round: Annotated[int, Field(ge=0)] = 0
    attested: dict[Name, Name] = Field(default_factory=dict)
    """Node → member: who has repeated the merge that led to the head."""
    last_round: Annotated[int, Field(ge=0)] = 0
    """Highest round opened so far."""
    rounds: tuple[Round, ...] = ()
    """Rounds in flight and the last few that ended, oldest first."""

    @property
    def run(self) -> str:
        return self.plan.run

    @property
    def current(self) -> Round | None:
        """The round in flight of the lowest number, if any."""
        return next((r for r in self.rounds if r.open), None)

    @property
    def witnesses(self) -> frozenset[str]:
        """Members whose word for the head counts."""
        return frozenset(filter(self.plan.witness.counts, self.attested.values()))

    @property
    def merged(self) -> bool:
        """Whether there was a merge in this run."""
        return self.merges > self.plan.merges_before

    @property
    def witnessed(self) -> bool:
        """Whether anybody may train from the head. The initial state needs no witness: the plan names it, and
        with its plan every node has signed for it. What a merge made needs some, whatever state that is."""
        return not self.merged or len(self.witnesses) >= self.plan.witness.quorum

    def submission(self, node: str, trained: Round) -> Submission | None:
        """What a node sent for a round, whichever round it has entered; the newest if one was refused."""
        entered = ((r, s) for r in self.rounds if (s := r.submissions.get(node)) is not None)
        sent = [s for r, s in entered if r.round - s.lag == trained.round]
        return sent[-1] if sent else None

    def sent(self, node: str, contribution: str) -> tuple[Round, Submission] | None:
        """A node's contribution by the digest of its envelope, with the round it has entered."""
        entered = ((r, s) for r in self.rounds if (s := r.submissions.get(node)) is not None)
        return next((found for found in entered if found[1].contribution == contribution), None)

    def find(self, round: int, fragment: int) -> Round | None:
        return next((r for r in self.rounds if r.key == (round, fragment)), None)


def _replace(state: RunState, changed: Round) -> RunState:
    rounds = tuple(changed if r.key == changed.key else r for r in state.rounds)
    ended = [r for r in rounds if not r.open]
    kept = KEPT_ROUNDS + state.plan.rounds.staleness
    drop = {r.key for r in ended[: max(0, len(ended) - kept)]}
    return state.model_copy(update={"rounds": tuple(r for r in rounds if r.key not in drop)})


def _in_round(state: RunState, event: ev.RoundEvent) -> RunState:
    """Events that change one round."""
    at = state.find(event.round, event.fragment)
    if at is None:  # a late note on a round no longer kept
        return state
    submissions = dict(at.submissions)
    match event:
        case ev.Handed():
            fields = event.model_dump(exclude={"type", "round", "fragment"})
            committed = isinstance(event, ev.ContributionCommitted)
            submissions[event.node] = Submission(**fields, status="committed" if committed else "received")
            at = at.model_copy(update={"submissions": submissions})
        case ev.RoundSealed():
            at = at.model_copy(update={"phase": "revealing", "deadline_ms": event.deadline_ms})
        case ev.ContributionAccepted():
            submissions[event.node] = submissions[event.node].model_copy(update={"status": "accepted"})
            at = at.model_copy(update={"submissions": submissions})
        case ev.ContributionRefused():
            submissions[event.node] = submissions[event.node].model_copy(
                update={"status": "refused", "reason": event.reason}
            )
            at = at.model_copy(update={"submissions": submissions})
        case ev.ContributionLate():
            at = at.model_copy(update={"late": {**at.late, event.node: event.contribution}})
        case ev.RoundWidened():
            at = at.model_copy(update={"nodes": tuple(sorted({*at.nodes, *event.nodes}))})
        case ev.RoundClosed():
            at = at.model_copy(update={"phase": "merging", "merged": event.merged})
        case ev.RoundCommitted():
            at = at.model_copy(update={"phase": "committed"})
            state = state.model_copy(
                update={
                    "merges": event.merges,
                    "head": event.state,
                    "head_round": event.round,
                    "attested": {},
                }
            )
        case ev.RoundAbandoned():
            why = f"{event.reason}: {event.detail}" if event.detail else event.reason
            at = at.model_copy(update={"phase": "abandoned", "abandoned": why})
    return _replace(state, at)


def evolve(state: RunState | None, event: ev.Event) -> RunState:
    """The state after `event`. Pure; `state` is None before the first event of a run."""
    if isinstance(event, ev.RunPlanned):
        plan = event.plan
        return RunState(
            plan=plan,
            head=plan.initial_state,
            merges=plan.merges_before,
            head_round=plan.rounds_before,
            last_round=plan.rounds_before,
        )
    if state is None:
        raise FormatError(f"a run begins with run-planned, not with {event.type}")
    match event:
        case ev.PlanRevised():
            return state.model_copy(update={"next_plan": event.plan})
        case ev.RunStarted():
            return state.model_copy(update={"status": "running"})
        case ev.NodeEnrolled():
            return state.model_copy(update={"enrolled": {**state.enrolled, event.node: event.member}})
        case ev.NodeWithdrawn():
            enrolled = {n: m for n, m in state.enrolled.items() if n != event.node}
            rounds = tuple(
                r.model_copy(update={"nodes": tuple(n for n in r.nodes if n != event.node)})
                if r.phase == "training"
                else r
                for r in state.rounds
            )
            withdrawn = set(state.withdrawn) | ({event.node} if event.reason == "operator" else set())
            return state.model_copy(
                update={"enrolled": enrolled, "rounds": rounds, "withdrawn": tuple(sorted(withdrawn))}
            )
        case ev.RoundOpened():
            opened = Round(
                round=event.round,
                fragment=event.fragment,
                phase="training",
                state=event.state,
                merges=state.merges,
                opened_ms=event.opened_ms,
                deadline_ms=event.deadline_ms,
                nodes=event.nodes,
            )
            plan = state.next_plan if state.next_plan is not None else state.plan
            return state.model_copy(
                update={
                    "plan": plan,
                    "next_plan": None,
                    "rounds": (*state.rounds, opened),
                    "last_round": max(state.last_round, event.round),
                }
            )
        case ev.BaseAttested():
            return state.model_copy(update={"attested": {**state.attested, event.node: event.member}})
        case ev.ScorePublished():
            return state
        case ev.RunFinished():
            return state.model_copy(update={"status": "finished"})
        case _:
            return _in_round(state, event)
