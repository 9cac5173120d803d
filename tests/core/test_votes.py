"""The core decides at the deadline, once, and before anything else; whoever is out takes no part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.core.service import Core
from tapestry.core.votes import Votes
from tapestry.errors import Conflict, DiskFull, PlanError, Refused
from tapestry.governance import proposal as subjects
from tapestry.host import failpoints
from tapestry.rounds import machine
from tests.audit.council import Council


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Council]:
    council = Council(tmp_path / "core", "ada", "bob", "cyd", "dan")
    with council.core:
        council.adopt()
        yield council


def types(council: Council) -> list[str]:
    return [entry.type for entry in council.ledger().entries]


def test_two_processes_decide_once(council: Council) -> None:
    council.propose("ada", subjects.OpenPhase(phase="two"))
    council.now += 61_000
    with Core.open(council.root, clock=lambda: council.now) as other:
        both = (council.votes, Votes(other.journal, council.consortium))
        assert all(each.overdue() for each in both)
        for each in (*both, *both):
            each.settle()
        assert not any(each.overdue() for each in both)
    assert types(council).count("proposal-decided") == 1


def test_a_core_that_dies_in_the_middle_decides_when_it_is_back(
    council: Council, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = council.propose("ada", subjects.OpenPhase(phase="two"))
    council.vote(name, yes=["ada", "bob", "cyd"])
    council.now += 61_000

    def dies(_point: str) -> None:
        raise DiskFull("here it ends")

    with monkeypatch.context() as killed:
        killed.setattr(failpoints, "reach", dies)
        with pytest.raises(DiskFull):
            council.votes.settle()
    assert "proposal-decided" not in types(council)
    council.now += 3_600_000
    with Core.open(council.root, clock=lambda: council.now) as again:
        votes = Votes(again.journal, council.consortium)
        votes.settle()
        outcome = votes.item(name).outcome
    assert outcome is not None and outcome.in_force


def test_a_decision_stands_before_what_comes_after_its_deadline(council: Council) -> None:
    plan = council.plan()
    council.ratified(plan)
    council.put(machine.Start())
    for name in ("ada", "bob"):
        council.enrol(council.nodes[name])
    away = council.propose("ada", subjects.Suspend(member="bob"))
    council.vote(away, yes=["ada", "cyd", "dan"])
    council.now += 61_000
    with pytest.raises(Refused, match="member bob is suspended until") as caught:
        council.send(council.nodes["bob"])
    assert away[:12] in caught.value.message
    assert types(council)[-1] == "proposal-decided"
    consortium = council.core.consortium
    assert consortium.suspended_nodes(council.state().enrolled) == ["bob-1"]
    council.now += 91 * 86_400_000
    assert consortium.suspended_nodes(council.state().enrolled) == []


def test_a_plan_that_cannot_start_is_not_put_to_the_vote(council: Council) -> None:
    from tapestry.core.votes_api import VotesApi

    plan = council.plan()
    api = VotesApi(council.core)
    api._check_plan(council.proposal("ada", subjects.RatifyPlan(run="run", plan=plan.digest)))
    with pytest.raises(Conflict, match="the plan of run run is"):
        api._check_plan(council.proposal("ada", subjects.RatifyPlan(run="run", plan="1" * 64)))
    held = council.votes.assembly().governance.charter
    assert held is not None
    narrow = held.contribution.model_copy(update={"weightings": ("equal",)})
    changed = held.model_copy(update={"revision": 2, "contribution": narrow})
    council.passed(subjects.ChangeCharter(charter=changed))
    with pytest.raises(PlanError, match="goes beyond the charter"):
        api._check_plan(council.proposal("ada", subjects.RatifyPlan(run="run", plan=plan.digest)))
