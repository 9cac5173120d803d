"""The members file: what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tapestry.governance.planner.members import ACCELERATORS, Member, MembersFile, Prices
from tapestry.governance.planner.spread import Spread
from tests.governance.planner.made import member, members


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokens_per_s": None}, "one of accelerator"),
        ({"tokens_per_s": 1.0, "accelerator": "h200-sxm", "keep": True}, "one of accelerator"),
        ({"available": (0.9, 0.8)}, "larger figure first"),
        ({"tokens_per_s": (2.0, 1.0)}, "larger figure first"),
        ({"available": 1.5}, "less than or equal to 1"),
        ({"up_mbit": 0.0}, "greater than 0"),
        ({"up_mbit": float("nan")}, "finite|greater than"),
        ({"wheels": 4}, "Extra inputs"),
        ({"count": 0}, "greater than or equal to 1"),
    ],
)
def test_a_member_that_cannot_be(changed: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {"name": "a", "tokens_per_s": 1.0, "up_mbit": 1.0, "down_mbit": 1.0}
    changed = {key: value for key, value in changed.items() if key != "keep"}
    assert Member(**fields).name == "a"
    with pytest.raises(ValidationError, match=says):
        Member(**{**fields, **changed})


def test_files_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="there twice"):
        members(member("a"), member("a"))
    with pytest.raises(ValidationError, match="more than 2000"):
        members(member("a", count=2_000), member("b"))
    with pytest.raises(ValidationError, match="larger figure first"):
        members(prices=Prices(gb_sent=(2.0, 1.0)))
    with pytest.raises(ValidationError):
        MembersFile(format="tapestry.members-file", version=1, members=())


def test_accelerators_have_a_source_and_a_peak_one_can_know() -> None:
    for name, each in ACCELERATORS.items():
        assert each.source and 100 < each.peak_tflops < 5000 and 40 <= each.memory_gb <= 300, name
    node = member("a", accelerator="h100-sxm", accelerators=8)
    assert node.peak_flops == pytest.approx(8 * 989.4e12)
    assert node.accelerator_memory_bytes == 80e9
    assert member("a", accelerator="h100-sxm", memory_gb=94.0).accelerator_memory_bytes == 94e9


def test_spreads() -> None:
    up = Spread.of_pair((1.0, 3.0), more_is_better=True)
    assert (up.best, up.middle, up.worst) == (3.0, 2.0, 1.0) and (up.low, up.high) == (1.0, 3.0)
    cost = Spread.of_pair((1.0, 3.0), more_is_better=False)
    assert (cost.best, cost.worst) == (1.0, 3.0)
    found = Spread.measured([float(n) for n in range(101)], more_is_better=False)
    assert (found.best, found.middle, found.worst) == (5.0, 50.0, 95.0)
    assert Spread.measured([2.0], more_is_better=True) == Spread.exactly(2.0)
