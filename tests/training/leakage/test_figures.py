"""Rates, areas, intervals and exposures against numbers worked out otherwise."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tapestry.errors import InputError
from tapestry.training.leakage import figures


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [  # as in published tables
        (0, 20, 0.0, 0.1684),
        (20, 20, 0.8316, 1.0),
        (5, 10, 0.1871, 0.8129),
        (10, 100, 0.0490, 0.1762),
        (1, 1000, 0.0000253, 0.005558),
    ],
)
def test_clopper_and_pearson(hits: int, of: int, low: float, high: float) -> None:
    found = figures.clopper_pearson(hits, of, 0.95)
    assert found == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_the_range_of_a_binomial_number_is_the_narrowest_with_such_tails() -> None:
    for of, p, confidence in (
        (100, Fraction(1, 100), 0.95),
        (350, Fraction(1, 100), 0.975),
        (40, Fraction(1, 4), 0.9),
    ):
        mass = [math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in range(of + 1)]
        fewest, most = figures.binomial_range(of, float(p), confidence)
        tail = (1 - confidence) / 2
        assert sum(mass[:fewest]) <= tail < sum(mass[: fewest + 1])
        assert sum(mass[most + 1 :]) <= tail < sum(mass[most:])


def test_a_rate_is_counted_strictly_above_what_one_in_a_hundred_others_score() -> None:
    others = np.arange(200.0)  # two of them may be above: the threshold is 197
    members = np.array([197.0] * 10 + [198.0] * 5 + [0.0] * 5)
    found = figures.true_positive_rate(members, others)
    assert found.value == 5 / 20
    assert found.low <= found.value <= found.high


def test_equal_scores_find_nobody() -> None:
    same = np.zeros(500)
    found = figures.true_positive_rate(same, same)
    assert (found.value, found.low) == (0.0, 0.0)
    assert figures.area(same, same).value == 0.5


def test_scores_far_apart_find_everybody() -> None:
    others, members = np.linspace(0, 1, 1000), np.linspace(2, 3, 300)
    found = figures.true_positive_rate(members, others)
    assert found.value == 1.0 and found.high == 1.0
    assert found.low == pytest.approx(figures.clopper_pearson(300, 300, 0.975)[0])
    assert figures.area(members, others).value == 1.0


def test_too_few_windows_are_refused_with_how_many_are_needed() -> None:
    with pytest.raises(InputError, match="20 and 100 are needed"):
        figures.true_positive_rate(np.zeros(19), np.zeros(1000))
    with pytest.raises(InputError, match="20 and 1000 are needed"):
        figures.true_positive_rate(np.zeros(20), np.zeros(999), false_positives=0.001)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """By chance and with members shifted by one standard deviation: the rate is 1 % and 9.2 % then, the area
    0.5 and 0.7602."""
    draw = np.random.default_rng(5)
    for shift, rate, area in ((0.0, 0.01, 0.5), (1.0, 0.0924, 0.7602)):
        held = {"rate": 0, "area": 0}
        for _ in range(200):
            members, others = draw.normal(shift, 1, 150), draw.normal(0, 1, 400)
            held["rate"] += figures.true_positive_rate(members, others).holds(rate)
            held["area"] += figures.area(members, others).holds(area)
        assert held["rate"] >= 190
        assert held["area"] >= 180, "DeLong's is approximate"


def test_an_interval_excludes_chance_where_there_is_much_to_see() -> None:
    """The control of the test above: intervals are not wide enough to hold everything."""
    draw = np.random.default_rng(6)
    members, others = draw.normal(1.5, 1, 500), draw.normal(0, 1, 1000)
    assert figures.true_positive_rate(members, others).low > 0.05
    assert figures.area(members, others).low > 0.5


def test_the_area_is_the_part_of_pairs_in_the_right_order() -> None:
    draw = np.random.default_rng(7)
    members, others = draw.integers(0, 6, 40).astype(float), draw.integers(0, 5, 70).astype(float)
    pairs = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    found = figures.area(members, others)
    assert found.value == pytest.approx(pairs.mean())
    variance = pairs.mean(1).var(ddof=1) / 40 + pairs.mean(0).var(ddof=1) / 70
    assert found.high - found.value == pytest.approx(1.959964 * math.sqrt(variance))


def test_exposure_is_by_rank_and_ties_count_against_it() -> None:
    candidates = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    found = figures.exposures(np.array([0.5, 2.0, 1.0]), candidates)
    assert found.tolist() == [2.0, pytest.approx(2 - math.log2(3)), 0.0]
    assert figures.exposure_by_chance(3) == pytest.approx(2 - (0 + 1 + math.log2(3) + 2) / 4)


def test_a_mean_has_its_interval() -> None:
    found = figures.mean(np.array([1.0, 2.0, 3.0, 4.0]), -10.0, 10.0)
    assert found.value == 2.5
    assert found.high - 2.5 == pytest.approx(3.182446 * math.sqrt(5 / 3 / 4), rel=1e-5)  # t of 3, from tables
    found = figures.mean(np.array([1.0, 3.0]), 0.0, 4.0)
    assert (found.low, found.high) == (0.0, 4.0)  # 12.7 standard errors, within the bounds
    many = np.arange(2000.0)
    reach = figures.mean(many, -1e9, 1e9).high - many.mean()
    assert reach == pytest.approx(1.959964 * math.sqrt(many.var(ddof=1) / 2000), rel=1e-3)


@pytest.mark.parametrize("bits", [0.0, 2.0, 8.0])
def test_one_canary_says_little(bits: float) -> None:
    """It had an interval without width."""
    found = figures.mean(np.array([bits]), 0.0, 8.0)
    assert found.value == bits
    assert (found.low, found.high) == (pytest.approx(bits * 0.025), pytest.approx(8 - (8 - bits) * 0.025))
    more = figures.mean(np.full(50, bits), 0.0, 8.0)
    assert found.low <= more.low <= bits <= more.high <= found.high
    assert more.high - more.low < 0.08 * 8


def test_intervals_of_few_canaries_hold_the_mean() -> None:
    """Of exposures as they are by chance. Student's t is exact for a normal distribution, not for theirs:
    in 9 of 10 they hold it. A normal interval does so in 6 of 10 pairs, and never of one canary."""
    rng, candidates = np.random.default_rng(3), 255
    truth = figures.exposure_by_chance(candidates)
    for n in (1, 2, 5):
        ranks = rng.integers(1, candidates + 2, size=(400, n))
        held = [
            figures.mean(np.log2(candidates + 1) - np.log2(each), 0.0, 8.0).holds(truth) for each in ranks
        ]
        assert sum(held) >= (380 if n == 1 else 350), n


def test_an_area_without_a_wrong_pair_is_not_certain() -> None:
    found = figures.area(np.arange(100.0, 120.0), np.arange(100.0))
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.025 ** (1 / 20))
    found = figures.area(np.arange(20.0), np.arange(100.0, 200.0))
    assert (found.value, found.low) == (0.0, 0.0) and found.high == pytest.approx(1 - 0.025 ** (1 / 20))
