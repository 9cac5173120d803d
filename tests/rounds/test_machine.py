"""The round machine: a run's life, its refusals, and invariants under any order of inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tapestry.errors import Busy, Conflict, NotFound, PlanError, Refused
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds, Streaming
from tapestry.rounds import events as ev
from tapestry.rounds import machine as m
from tapestry.rounds.state import RunState, evolve
from tapestry.rounds.waiting import waiting_for
from tapestry.rounds.weights import UNIT


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make_plan(**rounds: object) -> Plan:
    defaults: dict[str, object] = {"total": 2, "min_nodes": 2, "quorum": 2, "deadline_s": 10.0}
    return Plan(
        run="run",
        model=digest("model"),
        layout=digest("layout"),
        initial_state=digest("initial"),
        parameters=10,
        rounds=Rounds(**{**defaults, **rounds}),  # type: ignore[arg-type]
        inner=Inner(steps=5, sequence_length=8, batch_sequences=2),
    )


def contribution(at_: RunState, node_: str, *, salt: str = "", **changes: object) -> m.Contribute:
    at = at_.current
    assert at is not None
    fields: dict[str, object] = {
        "round": at.round,
        "fragment": at.fragment,
        "node": node_,
        "member": node_,
        "plan": at_.plan.digest,
        "state": at.state,
        "contribution": digest(node_, at.round, salt),
        "delta": digest("delta", node_, at.round, salt),
        "tokens": 80,
        "steps": 5,
    }
    return m.Contribute(**{**fields, **changes})  # type: ignore[arg-type]


class Run:
    """A run under test: applies inputs, keeps every event."""

    def __init__(self, plan: Plan) -> None:
        planned = m.plan_run(plan)
        self.state, self.events, self.now = planned.state, list(planned.events), 1000

    def give(self, given: m.Input) -> m.Step:
        done = m.step(self.state, given, self.now)
        self.state = done.state
        self.events += done.events
        return done

    def screen_all(self, reason: str | None = None) -> None:
        for at, s in m.work(self.state).screen:
            self.give(
                m.Screened(
                    round=at.round,
                    fragment=at.fragment,
                    node=s.node,
                    contribution=s.contribution,
                    reason=reason,
                )
            )

    def merge_all(self) -> None:
        for at in m.work(self.state).merge:
            merged = tuple((s.delta, s.weight) for s in at.merged)
            self.give(
                m.MergeDone(
                    round=at.round,
                    fragment=at.fragment,
                    state=digest(at.state, merged),
                    base=digest("base", merged),
                    outer=None,
                )
            )

    def begin(self, *nodes: str) -> None:
        self.give(m.Start())
        for node in nodes:
            self.give(m.Enrol(node=node, member=node, plan=self.state.plan.digest, enrolment="e" * 64))


def test_a_run_from_plan_to_end() -> None:
    run = Run(make_plan())
    assert waiting_for(run.state, run.now) == "the operator to start the run"
    run.begin("a")
    assert waiting_for(run.state, run.now) == "nodes: 1 of 2 enrolled"
    run.give(m.Enrol(node="b", member="b", plan=run.state.plan.digest, enrolment="e" * 64))
    for _ in range(2):
        for node in "ab":
            run.give(contribution(run.state, node))
        run.screen_all()
        assert m.work(run.state).merge
        run.merge_all()
    assert run.state.status == "finished"
    assert run.state.merges == 2
    assert [type(e).__name__ for e in run.events].count("RoundCommitted") == 2
    assert not m.work(run.state).merge


def test_state_is_the_fold_of_its_events_and_survives_a_snapshot() -> None:
    run = Run(make_plan())
    run.begin("a", "b")
    run.give(contribution(run.state, "a"))
    folded: RunState | None = None
    for event in run.events:
        body = event.model_dump(mode="json")
        folded = evolve(folded, ev.parse_event(body.pop("type"), body))
    assert folded == run.state == RunState.from_bytes(run.state.to_bytes())


def test_weights_stand_in_member_order_and_add_up() -> None:
    run = Run(make_plan())
    run.begin("b", "a")
    run.give(contribution(run.state, "b", tokens=10))
    run.give(contribution(run.state, "a", tokens=30))
    run.screen_all()
    merged = m.work(run.state).merge[0].merged
    assert [s.node for s in merged] == ["a", "b"]
    assert [s.weight for s in merged] == [UNIT * 3 // 4, UNIT // 4]


def test_the_same_contribution_twice_counts_once_and_another_is_a_conflict() -> None:
    run = Run(make_plan())
    run.begin("a", "b")
    first = contribution(run.state, "a")
    run.give(first)
    assert run.give(first).events == ()
    with pytest.raises(Conflict):
        run.give(contribution(run.state, "a", salt="other"))
    run.give(contribution(run.state, "b"))
    run.screen_all()
    assert run.give(first).events == ()  # while merging
    run.merge_all()
    assert run.give(first).events == ()  # after the round


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"state": digest("elsewhere")}, Refused),
        ({"plan": digest("elsewhere")}, Refused),
        ({"node": "stranger"}, Refused),
        ({"tokens": 81}, Refused),
        ({"steps": 6}, Refused),
        ({"round": 9}, NotFound),
    ],
)
def test_a_contribution_that_does_not_fit_is_refused(
    changes: dict[str, object], error: type[Exception]
) -> None:
    run = Run(make_plan())
    run.begin("a", "b")
    run.give(contribution(run.state, "a"))  # the control: without the change it is taken
    before = run.state
    with pytest.raises(error):
        run.give(contribution(run.state, "b", **changes))
    assert run.state == before


def test_late_is_refused_recorded_once_and_disturbs_nobody() -> None:
    run = Run(make_plan(min_nodes=2, quorum=1))
    run.begin("a", "b")
    late = contribution(run.state, "b")
    run.give(contribution(run.state, "a"))
    run.screen_all()
    run.now += 10_000
    run.give(m.Tick())
    done = run.give(late)
    assert isinstance(done.refusal, Refused)
    assert isinstance(done.events[0], ev.ContributionLate)
    with pytest.raises(Refused):
        run.give(late)
    other = dataclasses.replace(late, contribution="9" * 64)
    stranger = dataclasses.replace(late, node="z", member="z", contribution="8" * 64)
    for again in (other, stranger):  # neither fills the ledger
        with pytest.raises(Refused, match="is late"):
            run.give(again)
    run.merge_all()
    assert run.state.merges == 1


def late_run(**rounds: object) -> tuple[Run, m.Contribute]:
    """Round 1 was merged without `b`, which then answers."""
    run = Run(make_plan(min_nodes=2, quorum=1, total=9, **rounds))
    run.begin("a", "b")
    late = contribution(run.state, "b")
    end_round(run, "a")
    return run, late


def end_round(run: Run, *nodes: str) -> None:
    for node in nodes:
        run.give(contribution(run.state, node))
    run.screen_all()
    run.now += 10_000
    run.give(m.Tick())
    run.merge_all()


def test_a_late_contribution_enters_the_next_merge_with_less_weight() -> None:
    run, late = late_run(staleness=1)
    run.give(late)
    assert run.give(late).events == (), "it may come twice"
    run.give(contribution(run.state, "a"))
    run.screen_all()
    at = m.work(run.state).merge[0]
    assert [(s.node, s.weight) for s in at.merged] == [("a", 11184811), ("b", 5592405)], "2 to 1"
    assert at.submissions["b"].lag == 1
    run.merge_all()
    end_round(run, "a", "b")
    assert run.state.merges == 3, "and then it is in time again"


def test_what_is_late_by_more_than_the_plan_allows_is_refused() -> None:
    for staleness, refused in ((0, True), (1, True), (2, False)):
        run, late = late_run(staleness=staleness)
        end_round(run, "a")
        if refused:
            assert isinstance(run.give(late).refusal, Refused)
        else:
            assert run.give(late).refusal is None


def test_nobody_is_counted_twice_for_one_round() -> None:
    run, _ = late_run(staleness=3)
    with pytest.raises(Conflict, match="came already"):
        run.give(contribution(run.state, "a", salt="again", round=1, state=run.state.plan.initial_state))
    run, late = late_run(staleness=3)
    run.give(late)
    end_round(run, "a")
    again = contribution(run.state, "b", salt="again", round=1, state=run.state.plan.initial_state)
    with pytest.raises(Conflict, match="came already"):
        run.give(again)
    run.give(contribution(run.state, "b"))
    with pytest.raises(Conflict, match="came already"):
        run.give(contribution(run.state, "b", salt="again"))


def test_a_late_contribution_must_be_from_its_own_rounds_state() -> None:
    run, late = late_run(staleness=1)
    with pytest.raises(Refused, match="trained from state"):
        run.give(dataclasses.replace(late, state=run.state.head))
    run.give(late)


def test_who_was_not_expected_in_time_is_not_late() -> None:
    run = Run(make_plan(min_nodes=2, quorum=1, total=9, staleness=1))
    run.begin("a", "b")
    run.give(m.Enrol(node="c", member="c", plan=run.state.plan.digest, enrolment="e" * 64))
    early = contribution(run.state, "c")
    with pytest.raises(Refused, match="not expected"):
        run.give(early)
    end_round(run, "a")
    with pytest.raises(Refused, match="not expected"):
        run.give(early)
    run.give(contribution(run.state, "c"))


def test_while_a_merge_is_computed_a_late_one_waits() -> None:
    run, late = late_run(staleness=1)
    run.give(contribution(run.state, "a"))
    run.screen_all()
    run.now += 10_000
    run.give(m.Tick())
    assert m.work(run.state).merge
    with pytest.raises(Busy, match="not open yet"):
        run.give(late)


def test_fragments_take_turns() -> None:
    run = Run(
        make_plan(min_nodes=2, quorum=2, total=3).model_copy(update={"streaming": Streaming(fragments=2)})
    )
    run.begin("a", "b")
    with pytest.raises(Refused):
        run.give(contribution(run.state, "a", fragment=1))
    for fragment in (0, 1, 0):
        assert run.state.current is not None and run.state.current.fragment == fragment
        end_round(run, "a", "b")
    assert run.state.status == "finished"


def test_a_refused_contribution_leaves_the_round_to_the_others() -> None:
    run = Run(make_plan(min_nodes=3, quorum=2))
    run.begin("a", "b", "c")
    run.give(contribution(run.state, "a"))
    run.screen_all(reason="artifact")
    for node in "bc":
        run.give(contribution(run.state, node))
    run.screen_all()
    assert [s.node for s in m.work(run.state).merge[0].merged] == ["b", "c"]


def test_a_merge_that_cannot_be_had_ends_its_round_with_the_reason() -> None:
    run = Run(make_plan())
    run.begin("a", "b")
    for node in "ab":
        run.give(contribution(run.state, node))
    run.screen_all()
    run.give(m.MergeFailed(round=1, fragment=0, reason="merge-not-finite", detail="huge values of b"))
    assert run.state.merges == 0 and run.state.current is not None and run.state.current.round == 2
    assert run.state.current.state == run.state.head
    said = waiting_for(run.state, run.now)
    assert said is not None and "round 1 was abandoned, merge-not-finite: huge values of b" in said


def test_a_node_the_operator_withdrew_stays_out() -> None:
    run = Run(make_plan())
    run.begin("a", "b")
    run.give(m.Withdraw(node="b", reason="operator"))
    with pytest.raises(Refused, match="withdrawn"):
        run.give(m.Enrol(node="b", member="b", plan=run.state.plan.digest, enrolment="e" * 64))


def test_below_quorum_waits_for_newcomers_or_is_abandoned() -> None:
    waiting = Run(make_plan())
    waiting.begin("a", "b")
    waiting.give(contribution(waiting.state, "a"))
    waiting.screen_all()
    waiting.now += 10_000
    waiting.give(m.Tick())
    assert "quorum: 1 of 2" in str(waiting_for(waiting.state, waiting.now))
    waiting.give(m.Enrol(node="c", member="c", plan=waiting.state.plan.digest, enrolment="e" * 64))
    waiting.give(contribution(waiting.state, "c"))
    waiting.screen_all()
    assert len(m.work(waiting.state).merge) == 1

    leaving = Run(make_plan(below_quorum="abandon"))
    leaving.begin("a", "b")
    leaving.now += 10_000
    leaving.give(m.Tick())
    assert leaving.state.current is not None
    assert leaving.state.current.round == 2
    assert leaving.state.merges == 0


def test_a_revision_takes_effect_at_the_next_round() -> None:
    run = Run(make_plan(total=3))
    run.begin("a", "b")
    old = run.state.plan
    new = old.model_copy(update={"revision": 2, "rounds": old.rounds.model_copy(update={"total": 2})})
    run.give(m.Revise(plan=new))
    assert run.state.plan == old
    for _ in range(2):
        for node in "ab":
            run.give(contribution(run.state, node))
        run.screen_all()
        run.merge_all()
    assert run.state.plan == new
    assert run.state.status == "finished"


@pytest.mark.parametrize(
    "update",
    [{"revision": 3}, {"revision": 2, "model": digest("another")}, {"revision": 2, "run": "another"}],
)
def test_a_revision_that_does_not_follow_is_an_error(update: dict[str, object]) -> None:
    run = Run(make_plan())
    with pytest.raises(PlanError):
        run.give(m.Revise(plan=run.state.plan.model_copy(update=update)))


def test_an_infeasible_cap_is_an_error_before_the_run() -> None:
    plan = make_plan().model_copy(update={"merge": Merge(influence_cap=0.4)})
    with pytest.raises(PlanError, match="influence_cap"):
        m.plan_run(plan)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, in whatever order and however often: invariants hold."""

    @initialize(
        policy=st.sampled_from(["wait", "abandon"]),
        quorum=st.integers(1, 3),
        staleness=st.integers(0, 2),
        reveal_s=st.sampled_from([None, 3.0]),
    )
    def plan(self, policy: str, quorum: int, staleness: int, reveal_s: float | None) -> None:
        rules = {"quorum": quorum, "below_quorum": policy, "staleness": staleness, "reveal_s": reveal_s}
        plan = make_plan(total=3, min_nodes=3, **rules)
        self.run_ = Run(plan)
        self.sent: list[m.Contribute] = []

    @rule()
    def start(self) -> None:
        self.run_.give(m.Start())

    @rule(node=st.sampled_from("abcd"))
    def enrol(self, node: str) -> None:
        if self.run_.state.status != "finished":
            self.run_.give(
                m.Enrol(node=node, member=node, plan=self.run_.state.plan.digest, enrolment="e" * 64)
            )

    @rule(node=st.sampled_from("abcd"))
    def withdraw(self, node: str) -> None:
        self.run_.give(m.Withdraw(node=node, reason="left"))

    @rule(node=st.sampled_from("abcd"), salt=st.sampled_from(["", "x"]))
    def contribute(self, node: str, salt: str) -> None:
        if self.run_.state.current is None:
            return
        given = contribution(self.run_.state, node, salt=salt)
        self.sent.append(given)
        self._try(given)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if self.sent:
            self._try(data.draw(st.sampled_from(self.sent)))

    @rule(data=st.data())
    def reveal(self, data: st.DataObject) -> None:
        if self.sent:
            given = data.draw(st.sampled_from(self.sent))
            self._try(m.Reveal(node=given.node, contribution=given.contribution))

    def _try(self, given: m.Input) -> None:
        with contextlib.suppress(Refused, Conflict, NotFound, Busy):
            self.run_.give(given)

    @rule(reason=st.sampled_from([None, "artifact"]))
    def screen(self, reason: str | None) -> None:
        self.run_.screen_all(reason)

    @rule()
    def merge(self) -> None:
        self.run_.merge_all()

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.run_.now += seconds * 1000
        self.run_.give(m.Tick())

    @invariant()
    def one_history(self) -> None:
        if not hasattr(self, "run_"):
            return
        run = self.run_
        folded: RunState | None = None
        committed: dict[int, str] = {}
        merged: list[str] = []
        sealed: set[int] = set()
        for event in run.events:
            folded = evolve(folded, event)
            if isinstance(event, ev.RoundSealed):
                sealed.add(event.round)
            if isinstance(event, ev.ContributionCommitted):
                assert event.round not in sealed  # whoever commits has seen nobody's bytes
            if isinstance(event, ev.ContributionRevealed):
                assert event.round in sealed
            if isinstance(event, ev.RoundCommitted):
                assert event.round not in committed  # no two bases for a round
                committed[event.round] = event.state
            if isinstance(event, ev.RoundClosed):
                assert sum(s.weight for s in event.merged) == UNIT
                assert len(event.merged) >= run.state.plan.rounds.quorum
                merged += [s.contribution for s in event.merged]
        assert folded == run.state
        assert len(merged) == len(set(merged))  # nothing counted twice
        assert len(committed) == run.state.merges <= run.state.plan.rounds.total
        assert m.step(run.state, m.Tick(), run.now).events == ()  # settled


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
