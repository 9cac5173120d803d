from __future__ import annotations

from typing import get_args

import pytest

from tapestry.cli.demo import defaults
from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName, with_algorithm
from tapestry.protocol.plan import Plan


@pytest.mark.parametrize("name", get_args(AlgorithmName))
def test_every_name_makes_a_plan(name: AlgorithmName) -> None:
    fields = defaults.algorithm(name, total=2, nodes=3, steps=10, seed=0)
    sha = "0" * 64
    plan = Plan(run="r", model=sha, layout=sha, initial_state=sha, parameters=1, **fields)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    assert set(ALGORITHMS) == set(get_args(AlgorithmName))


def test_what_the_plan_says_wins() -> None:
    made = with_algorithm("sparseloco", {"merge": {"outer_rate": 0.65}, "inner": {"steps": 30}})
    assert made["merge"] == {"outer": "sgd", "outer_rate": 0.65, "outer_momentum": 0.0}
    assert made["inner"] == {"steps": 30} and made["codec"]["error_feedback"] == 0.95
