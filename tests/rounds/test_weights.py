"""Weights: exact, capped, never renormalised above the cap."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import InfeasibleCap
from tapestry.rounds.weights import UNIT, Share, cap_can_be_met, merge_weights


def shares(*tokens: int) -> list[Share]:
    return [Share(member=f"m{i}", node=f"n{i}", tokens=t) for i, t in enumerate(tokens)]


def test_by_tokens_and_equal() -> None:
    assert merge_weights(shares(1, 3), weighting="tokens", influence_cap=1.0) == (UNIT // 4, UNIT * 3 // 4)
    assert merge_weights(shares(1, 3), weighting="equal", influence_cap=1.0) == (UNIT // 2, UNIT // 2)


def test_the_cap_takes_from_the_largest_and_gives_to_the_others() -> None:
    weights = merge_weights(shares(98, 1, 1), weighting="tokens", influence_cap=0.5)
    assert weights == (UNIT // 2, UNIT // 4, UNIT // 4)


def test_the_cap_counts_a_member_with_two_nodes_once() -> None:
    given_ = [Share(member="a", node=n, tokens=10) for n in ("a1", "a2")] + shares(10, 10)
    weights = merge_weights(given_, weighting="tokens", influence_cap=0.34)
    assert weights[0] + weights[1] <= 0.34 * UNIT
    assert sum(weights) == UNIT


def test_an_infeasible_cap_is_an_error_and_a_feasible_one_is_not() -> None:
    with pytest.raises(InfeasibleCap, match="2 members"):
        merge_weights(shares(1, 1), weighting="tokens", influence_cap=0.49)
    assert merge_weights(shares(1, 1), weighting="tokens", influence_cap=0.5) == (UNIT // 2, UNIT // 2)


@given(
    tokens=st.lists(st.integers(1, 10**12), min_size=1, max_size=12),
    slack=st.floats(0, 1),
)
def test_any_weights_add_up_and_keep_the_cap(tokens: list[int], slack: float) -> None:
    cap = min(1.0, 1 / len(tokens) + 1e-6 + slack)
    weights = merge_weights(shares(*tokens), weighting="tokens", influence_cap=cap)
    assert sum(weights) == UNIT
    assert max(weights) <= cap * UNIT
    by_tokens = sorted(zip(tokens, weights, strict=True))
    assert all(a[1] <= b[1] + 1 for a, b in itertools.pairwise(by_tokens))


@pytest.mark.parametrize(
    ("cap", "members", "met"), [(0.3333333333, 3, False), (0.334, 3, True), (1.0, 1, True)]
)
def test_plan_and_merge_agree_on_what_a_cap_allows(cap: float, members: int, met: bool) -> None:
    """A plan whose quorum could never be merged is refused, to the last unit."""
    shares = [Share(member=f"m{i}", node=f"n{i}", tokens=1) for i in range(members)]
    assert cap_can_be_met(cap, members) == met
    if met:
        assert sum(merge_weights(shares, weighting="tokens", influence_cap=cap)) == UNIT
        return
    with pytest.raises(InfeasibleCap):
        merge_weights(shares, weighting="tokens", influence_cap=cap)
