"""The published fits at the model they are known by, by hand."""

from __future__ import annotations

import pytest

from tapestry.governance.planner.scaling import BESIROGLU, HOFFMANN, expected_loss


def test_chinchilla() -> None:
    """70e9 parameters, 1.4e12 tokens. ln 70e9 = 24.9717, ln 1.4e12 = 27.9674: 406.4 / e^8.4704 = 0.0852 and
    410.7 / e^7.9679 = 0.1423; 482.01 / e^8.6852 = 0.0815 and 2085.43 / e^10.2305 = 0.0752."""
    assert HOFFMANN.loss(70e9, 1.4e12) == pytest.approx(1.6934 + 0.0852 + 0.1423, abs=2e-4)
    assert BESIROGLU.loss(70e9, 1.4e12) == pytest.approx(1.8172 + 0.0815 + 0.0752, abs=2e-4)


def test_the_range_holds_both_fits_and_the_error_of_the_floor() -> None:
    found = expected_loss(70e9, 1.4e12)
    assert found.low <= min(found.by_fit.values()) and found.high >= max(found.by_fit.values())
    assert (
        found.low <= found.middle - 1.96 * 0.03 + 1e-12 and found.high >= found.middle + 1.96 * 0.03 - 1e-12
    )
    assert found.middle == found.by_fit[BESIROGLU.name]


def test_more_of_either_is_better_and_beyond_the_fit_is_said() -> None:
    base = expected_loss(1e9, 1e10)
    assert not base.beyond
    assert expected_loss(2e9, 1e10).high < base.high and expected_loss(1e9, 2e10).low < base.low
    for outside in ((7e10, 1e10), (1e9, 1e12), (1e6, 1e10), (1e9, 1e6)):
        assert expected_loss(*outside).beyond
    assert base.middle > BESIROGLU.floor
