"""What is missing: each thing is found where it is, and not where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.governance.planner.estimate import estimate
from tapestry.governance.planner.lacking import Lack, lacking
from tapestry.governance.planner.members import Committed, Core, Goal, Prices
from tapestry.governance.planner.scenario import Scenario
from tapestry.protocol.plan import Evaluation, Inner, Retention, Rounds, Witness
from tests.governance.planner.made import member, members, scenario

PRICES = Prices(accelerator_hour=1.0)


def of(given: Scenario) -> dict[tuple[str, str], Lack]:
    return {(one.what, one.who): one for one in lacking(estimate(given), given)}


def test_where_everything_is_there_only_evidence_is_missing() -> None:
    assert set(of(scenario())) == {("recorded rounds", "run")}


def hardware(**changed: Any) -> Any:
    return members(member("a", peak_tflops=1.0, **changed), member("b"))


def committed(**changed: Any) -> Any:
    return members(member("a", committed=Committed(**changed)), member("b"), prices=PRICES)


CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("memory", "a", {"who": hardware(memory_gb=1e-4)}, {"who": hardware(memory_gb=1.0)}),
    ("batch", "a", {"who": hardware(accelerators=3)}, {"who": hardware(accelerators=2)}),
    (
        "disk",
        "a",
        {"who": members(member("a", disk_gb=1e-4), member("b"))},
        {"who": members(member("a", disk_gb=1.0), member("b"))},
    ),
    ("disk", "core", {"who": members(core=Core(disk_gb=1e-4))}, {"who": members(core=Core(disk_gb=1.0))}),
    (
        "pending bytes",
        "core",
        {"who": members(core=Core(pending_gb=1e-4))},
        {"who": members(core=Core(pending_gb=1.0))},
    ),
    (
        "members",
        "run",
        {"rounds": Rounds(total=1, min_nodes=3)},
        {"rounds": Rounds(total=1, min_nodes=2)},
    ),
    (
        "deadline",
        "a",
        {"rounds": Rounds(total=1, deadline_s=1.2)},
        {"rounds": Rounds(total=1, deadline_s=2.0)},
    ),
    (  # one round in ten scores the base, and takes so much longer
        "deadline",
        "a",
        {
            "rounds": Rounds(total=1, deadline_s=2.0),
            "evaluation": Evaluation(every_rounds=10, max_tokens=4000),
        },
        {
            "rounds": Rounds(total=1, deadline_s=2.0),
            "evaluation": Evaluation(every_rounds=10, max_tokens=400),
        },
    ),
    (
        "reveal",
        "a",
        {"rounds": Rounds(total=1, reveal_s=0.1)},
        {"rounds": Rounds(total=1, reveal_s=10.0)},
    ),
    (
        "witnesses",
        "run",
        {"witness": Witness(quorum=2, members=("a", "x"))},
        {"witness": Witness(quorum=2, members=("a", "b"))},
    ),
    (
        "quorum",
        "run",
        {"who": members(member("a", available=0.9), member("b", available=0.8))},
        {"who": members(member("a", available=0.995), member("b", available=0.8))},
    ),
    (
        "utilisation",
        "run",
        {"who": members(goal=Goal(utilisation=0.9))},
        {"who": members(goal=Goal(utilisation=0.5))},
    ),
    ("link", "b", {"who": members(goal=Goal(utilisation=0.9))}, {"who": members(goal=Goal(utilisation=0.5))}),
    (
        "time",
        "run",
        {"who": members(goal=Goal(days=1e-4, utilisation=0.01))},
        {"who": members(goal=Goal(days=1.0, utilisation=0.01))},
    ),
    (
        "compute",
        "a",
        {"who": committed(accelerator_hours=1e-4)},
        {"who": committed(accelerator_hours=1.0)},
    ),
    ("text", "run", {"who": committed(tokens=4999.0)}, {"who": committed(tokens=5001.0)}),
    ("funds", "run", {"who": committed(funds=1e-4)}, {"who": committed(funds=1.0)}),
]


@pytest.mark.parametrize(("what", "who", "short", "enough"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_one_thing_is_missing(what: str, who: str, short: dict[str, Any], enough: dict[str, Any]) -> None:
    found = of(scenario(**short))
    assert (what, who) in found
    one = found[what, who]
    assert one.remedy and one.have is not None and one.factor is not None and one.factor > 1
    assert (what, who) not in of(scenario(**enough))


def test_the_link_that_is_named_reaches_the_goal() -> None:
    goal = Goal(utilisation=0.9)
    short = of(scenario(who=members(goal=goal)))["link", "a"]
    mbit = short.need / 1e6 * 1.001
    faster = members(*(member(name, up_mbit=mbit, down_mbit=mbit) for name in "ab"), goal=goal)
    assert ("utilisation", "run") not in of(scenario(who=faster))
    slower = members(*(member(name, up_mbit=mbit * 0.98, down_mbit=mbit * 0.98) for name in "ab"), goal=goal)
    assert ("utilisation", "run") in of(scenario(who=slower))


def test_fewer_kept_rounds_are_a_remedy_for_a_full_disk() -> None:
    who = members(member("a", disk_gb=3e-3), member("b"))
    assert ("disk", "a") in of(scenario(who=who, retention=Retention(blob_rounds=10)))
    assert ("disk", "a") not in of(scenario(who=who, retention=Retention(blob_rounds=1)))


def test_as_many_accelerators_as_are_named_hold_the_model_and_one_fewer_do_not() -> None:
    inner = Inner(steps=10, sequence_length=8, batch_sequences=64, optimizer="muon")

    def lack(accelerators: int) -> Lack | None:
        who = members(member("a", peak_tflops=1.0, memory_gb=2e-4, accelerators=accelerators), member("b"))
        return of(scenario(who=who, inner=inner)).get(("memory", "a"))

    first = lack(1)
    assert first is not None
    named = int(first.remedy.split()[0])
    assert named > 2 and lack(named) is None and lack(named - 1) is not None
