"""A run that repeats another from the middle: planned, recorded, verified by two verifiers, and refused where
what it names never was."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.bundle.record import Record
from tapestry.core import operator
from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import IntegrityError, PlanError
from tapestry.ledger.entries import Entry
from tapestry.protocol.artifact import State
from tapestry.protocol.plan import Origin, Plan
from tests.audit import second
from tests.core.support import CoreUnderTest, Member, make_plan

RUN, AGAIN = "run", "again"


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    core = CoreUnderTest(tmp_path / "core").start()
    yield core
    core.close()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "seed", total=3, min_nodes=2, quorum=1, witnesses=1, deadline_s=600.0)


def round_(plan: Plan, number: int, members: list[Member], values: tuple[float, ...]) -> None:
    run = plan.run
    view = members[0].wait(lambda v: v.current is not None and v.current.round == number, run)
    for member, value in zip(members, values, strict=True):
        member.hand_in(plan, value, round=number, state=view.head.state)
    merges = view.head.merges + 1
    members[0].wait(lambda v: v.head.merges == merges, run)
    assert members[0].attest(None, run).status_code == 200


def repeating(of: Plan, core: CoreUnderTest, /, **other: Any) -> Plan:
    """From round 2 on."""
    with Core.open(core.root) as opened:
        begun = opened.runs.opened(RUN, 2)
    assert begun is not None
    origin: dict[str, Any] = {"run": RUN, "round": 1, "merges": 1, "plan": of.digest}
    fields: dict[str, Any] = {"run": AGAIN, "initial_state": begun.state, "title": "again"}
    fields |= {key: value for key, value in other.items() if key in fields}
    origin |= {key: value for key, value in other.items() if key not in fields}
    values = of.model_dump(mode="json") | fields | {"origin": origin}
    return Plan.from_json(values)


def ledger(core: CoreUnderTest) -> list[file.Line]:
    with Core.open(core.root) as opened:
        return list(Proofs(opened.journal, opened.consortium).lines(opened.store))


def by_the_second(lines: list[file.Line]) -> str:
    out = io.BytesIO()
    file.write(out, lines)
    return second.verify(out.getvalue().splitlines(keepends=True))


def test_a_run_begins_in_the_middle_of_another(core: CoreUnderTest, plan: Plan, tmp_path: Path) -> None:
    members = core.running(plan, tmp_path / "seed", "ada", "bob")
    for number in (1, 2, 3):
        round_(plan, number, members, (number, number + 0.5))
    again = repeating(plan, core)
    operator.plan(core.root, again)
    of_it = Record("ada-1").read(ledger(core)).runs[AGAIN]  # as a bundle has it whose node has no more of it
    assert (of_it.newest, of_it.plan_of(of_it.newest)) == (again.initial_state, again.digest)
    assert (of_it.heads[of_it.newest].merges, of_it.heads[of_it.newest].round) == (1, 1)
    operator.start(core.root, AGAIN)
    for member in members:
        assert member.enrol(again).status_code == 200
    begun = members[0].view(AGAIN)
    assert (begun.head.merges, begun.head.round, begun.head.witnessed) == (1, 1, True)
    assert members[0].score(again, 3.0, merges=1).status_code == 200
    for number in (2, 3):
        round_(again, number, members, (number, number + 0.5))
    members[0].wait(lambda v: v.status == "finished", AGAIN)
    with Core.open(core.root) as opened:
        states = [
            State.from_bytes(opened.store.read(opened.runs.standing(run).state.head)) for run in (RUN, AGAIN)
        ]
    one, other = states
    assert (one.base, one.outer, one.merges) == (other.base, other.outer, other.merges)
    assert (one.run, other.run) == (RUN, AGAIN)
    lines = ledger(core)
    assert Verifier().take(lines).merges == 5
    assert by_the_second(lines).endswith("2 members, 2 runs")
    _both_refuse_what_was_not_there(lines)


def _both_refuse_what_was_not_there(lines: list[file.Line]) -> None:
    """Up to the entry that plans the run, of which another plan is written."""
    place = next(
        n
        for n, (kind, e) in enumerate(lines)
        if kind == "entry" and (e.scope, e.type) == (AGAIN, "run-planned")
    )
    entry: Entry = lines[place][1]
    for field, value in (("round", 2), ("run", "nowhere"), ("plan", "0" * 64), ("merges", 0)):
        plan = {**entry.body["plan"], "origin": {**entry.body["plan"]["origin"], field: value}}
        wrong = [*lines[:place], ("entry", entry.model_copy(update={"body": {"plan": plan}}))]
        verifier = Verifier()
        with pytest.raises(IntegrityError, match="repeats run"):
            for line in wrong:
                verifier.line(line)
        with pytest.raises(second.Bad, match="repeats what is not there"):
            by_the_second(wrong)


def test_what_never_was_cannot_be_repeated(core: CoreUnderTest, plan: Plan, tmp_path: Path) -> None:
    members = core.running(plan, tmp_path / "seed", "ada", "bob")
    round_(plan, 1, members, (1.0, 1.5))
    members[0].wait(lambda v: v.current is not None and v.current.round == 2)
    good = repeating(plan, core)
    nowhere = Origin(run="nowhere", round=1, merges=1, plan=plan.digest)
    for wrong in (
        repeating(plan, core, round=2),
        repeating(plan, core, plan="0" * 64),
        repeating(plan, core, initial_state=plan.initial_state),
        repeating(plan, core, merges=0),
        good.model_copy(update={"origin": nowhere}),
    ):
        with pytest.raises(PlanError):
            operator.plan(core.root, wrong)
    operator.plan(core.root, good)


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ({"run": RUN}, "cannot repeat itself"),
        ({"merges": 2}, "cannot have led to 2 merges"),
        ({"round": 9, "merges": 3}, "is not above origin.merges"),
    ],
)
def test_a_plan_that_repeats_nothing(plan: Plan, origin: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"run": "other", "round": 1, "merges": 1, "plan": "0" * 64} | origin
    with pytest.raises(ValueError, match=says):
        Plan(**{**dict(plan), "origin": Origin(**fields)})
