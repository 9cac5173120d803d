"""Nobody trains from a base that too few members have attested, and no run ends with one."""

from __future__ import annotations

import pytest

from tapestry.errors import Conflict, PlanError, Refused
from tapestry.protocol.plan import Plan, Witness
from tapestry.rounds import events as ev
from tapestry.rounds import machine as m
from tapestry.rounds.waiting import waiting_for
from tests.rounds.test_machine import Run, contribution, digest, make_plan


def planned(needed: int, *members: str, **rounds: object) -> Plan:
    return make_plan(**rounds).model_copy(update={"witness": Witness(quorum=needed, members=members)})


def attestation(run: Run, by: str, **changes: object) -> m.Attest:
    state = run.state
    fields: dict[str, object] = {
        "node": by,
        "member": by,
        "round": state.head_round,
        "merges": state.merges,
        "state": state.head,
        "attestation": digest("attestation", by, state.merges),
    }
    return m.Attest(**{**fields, **changes})  # type: ignore[arg-type]


def merged(plan: Plan, *nodes: str) -> Run:
    """A run after its first merge."""
    run = Run(plan)
    run.begin(*nodes)
    once(run, *nodes)
    return run


def once(run: Run, *nodes: str) -> None:
    for node in nodes:
        run.give(contribution(run.state, node))
    run.screen_all()
    run.merge_all()


def last(run: Run) -> list[str]:
    return [event.type for event in run.events]


def test_the_initial_state_needs_no_witness() -> None:
    run = Run(planned(2))
    run.begin("a", "b")
    assert run.state.witnessed and run.state.current is not None
    with pytest.raises(Conflict, match="newest"):
        run.give(attestation(run, "a"))


def test_a_merge_that_leads_back_to_the_initial_state_needs_witnesses() -> None:
    """As a core would say that would undo a run without asking anybody."""
    run = Run(planned(2))
    run.begin("a", "b")
    for node in ("a", "b"):
        run.give(contribution(run.state, node))
    run.screen_all()
    (at,) = m.work(run.state).merge
    run.give(m.MergeDone(round=1, fragment=at.fragment, state=run.state.head, base="0" * 64, outer=None))
    assert (run.state.merges, run.state.head) == (1, run.state.plan.initial_state)
    assert not run.state.witnessed and run.state.current is None
    run.give(attestation(run, "a"))
    run.give(attestation(run, "b"))
    assert run.state.witnessed and run.state.current is not None


def test_a_round_opens_with_the_quorum_and_not_before() -> None:
    run = merged(planned(2), "a", "b")
    assert run.state.merges == 1 and run.state.current is None
    run.now += 10_000_000
    assert run.give(m.Tick()).events == ()
    assert [e.type for e in run.give(attestation(run, "a")).events] == ["base-attested"]
    assert [e.type for e in run.give(attestation(run, "b")).events] == ["base-attested", "round-opened"]
    assert run.state.current is not None and run.state.current.state == run.state.head
    free = merged(planned(0), "a", "b")
    assert free.state.current is not None, "the control: without a quorum the next round opens at once"


def test_the_last_base_is_witnessed_before_the_run_is_finished() -> None:
    run = merged(planned(1, total=1), "a", "b")
    assert run.state.status == "running" and last(run)[-1] == "round-committed"
    assert waiting_for(run.state, run.now) == "witnesses of merge 1: 0 of 1 members; missing: a, b"
    run.give(attestation(run, "b"))
    assert run.state.status == "finished" and last(run)[-2:] == ["base-attested", "run-finished"]
    assert merged(planned(0, total=1), "a", "b").state.status == "finished", "the control"


def test_members_count_and_not_their_nodes() -> None:
    run = Run(planned(2))
    run.give(m.Start())
    for node, member in (("a-1", "a"), ("a-2", "a"), ("b-1", "b")):
        run.give(m.Enrol(node=node, member=member, plan=run.state.plan.digest, enrolment="e" * 64))
    for node in run.state.current.nodes if run.state.current else ():
        run.give(contribution(run.state, node, member=node[0]))
    run.screen_all()
    run.merge_all()
    for node in ("a-1", "a-2"):
        run.give(attestation(run, node, member="a"))
    assert run.state.attested == {"a-1": "a", "a-2": "a"} and run.state.witnesses == {"a"}
    assert run.state.current is None
    run.give(attestation(run, "b-1", member="b"))
    assert run.state.current is not None


@pytest.mark.parametrize("changes", [{"state": digest("x")}, {"round": 2}, {"merges": 2}, {"merges": 0}])
def test_an_attestation_of_another_base(changes: dict[str, object]) -> None:
    run = merged(planned(1), "a", "b")
    with pytest.raises(Conflict, match="the newest is"):
        run.give(attestation(run, "a", **changes))
    assert not run.state.attested and run.state.current is None
    run.give(attestation(run, "a"))
    assert run.state.current is not None, "the control"


@pytest.mark.parametrize(
    "changes", [{"node": "z", "member": "z"}, {"node": "a", "member": "b"}, {"node": "c", "member": "c"}]
)
def test_an_attestation_of_one_who_is_no_witness(changes: dict[str, object]) -> None:
    """Not enrolled, of another member, or not named by the plan."""
    run = merged(planned(1, "a", "b", min_nodes=3, quorum=3), "a", "b", "c")
    with pytest.raises(Refused, match="no witness"):
        run.give(attestation(run, "a", **changes))
    assert run.state.current is None
    if changes["node"] == "c":
        other = merged(planned(1, min_nodes=3, quorum=3), "a", "b", "c")
        other.give(attestation(other, "c"))
        assert other.state.current is not None, "the control: where nobody is named, everybody counts"


def test_an_attestation_comes_twice_and_late() -> None:
    run = merged(planned(1), "a", "b")
    run.give(attestation(run, "a"))
    assert run.give(attestation(run, "a", attestation="f" * 64)).events == ()
    assert [type(e) for e in run.give(attestation(run, "b")).events] == [ev.BaseAttested], "the next is open"
    old = attestation(run, "b")
    once(run, "a", "b")
    assert run.state.merges == 2 and not run.state.attested
    with pytest.raises(Conflict):
        run.give(old)
    run.give(attestation(run, "a"))
    assert run.state.status == "finished"
    run.give(attestation(run, "b"))
    assert run.state.attested == {"a": "a", "b": "b"}


def test_one_who_is_withdrawn_keeps_the_word_it_gave() -> None:
    run = merged(planned(2, min_nodes=3, quorum=3), "a", "b", "c")
    run.give(attestation(run, "a"))
    run.give(m.Withdraw(node="a", reason="left"))
    assert run.state.witnesses == {"a"}
    with pytest.raises(Refused):
        run.give(attestation(run, "z"))
    run.give(m.Enrol(node="d", member="d", plan=run.state.plan.digest, enrolment="e" * 64))
    run.give(attestation(run, "d"))
    assert run.state.current is not None


def test_a_revision_may_not_make_it_easier() -> None:
    run = merged(planned(2, "a", "b", "c", min_nodes=3, quorum=3, total=3), "a", "b", "c")
    plan = run.state.plan
    for witness in (
        Witness(quorum=1, members=("a", "b", "c")),
        Witness(quorum=0, members=("a", "b", "c")),
        Witness(quorum=2),
        Witness(quorum=2, members=("a", "b")),
        Witness(quorum=2, members=("a", "b", "x")),
    ):
        with pytest.raises(PlanError, match="easier to find a quorum"):
            run.give(m.Revise(plan=plan.model_copy(update={"revision": 2, "witness": witness})))
    stricter = Witness(quorum=3, members=("a", "b", "c"))
    run.give(m.Revise(plan=plan.model_copy(update={"revision": 2, "witness": stricter})))
    again = plan.model_copy(update={"revision": 3})
    with pytest.raises(PlanError, match="easier"):
        run.give(m.Revise(plan=again))  # than the newest, which is not in force yet
    for node in "ab":
        run.give(attestation(run, node))
    assert run.state.current is not None and run.state.plan.witness == stricter, "from the next round on"
    once(run, "a", "b", "c")
    for node in "ab":
        run.give(attestation(run, node))
    assert run.state.current is None
    run.give(attestation(run, "c"))
    assert run.state.current is not None


def test_what_a_run_waits_for_is_said() -> None:
    run = merged(planned(2, "a", "b", "x", min_nodes=3, quorum=3), "a", "b", "c")
    assert waiting_for(run.state, run.now) == "witnesses of merge 1: 0 of 2 members; missing: a, b"
    run.give(attestation(run, "a"))
    assert waiting_for(run.state, run.now) == "witnesses of merge 1: 1 of 2 members; missing: b"
    run.give(m.Withdraw(node="b", reason="left"))
    assert waiting_for(run.state, run.now) == (
        "witnesses of merge 1: 1 of 2 members; no other witness is enrolled"
    )
