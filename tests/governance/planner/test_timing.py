"""Rounds by hand, and what holds of every round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.governance.planner.load import Load
from tapestry.governance.planner.timing import (
    TERMS,
    Party,
    Round,
    needed_rate,
    savings,
    slowest_party,
    time_round,
    transfer_s,
    without,
)

MB = 1e6
LOAD = Load(
    delta=2 * MB,
    largest_delta=2_000_000,
    dense=8 * MB,
    shards=1,
    manifest=0,
    base=8_000_000,
    base_shards=1,
    base_manifest=0,
)


def party(**changed: Any) -> Party:
    """Trains 10 s; 1 MB/s up, 2 MB/s down."""
    fields: dict[str, Any] = {
        "name": "a",
        "count": 1,
        "step_s": 1.0,
        "steps": 10,
        "evaluate_s": 0.0,
        "up": 1 * MB,
        "down": 2 * MB,
        "round_trip_s": 0.0,
        "parallel": 4,
        "repeats": True,
        "witness": True,
    }
    return Party(**{**fields, **changed})


def a_round(*parties: Party, **changed: Any) -> Round:
    fields: dict[str, Any] = {
        "parties": parties or (party(count=2),),
        "load": LOAD,
        "core_up": 1e12,
        "core_down": 1e12,
        "round_trips": 0.0,
        "request_s": 0.0,
        "fixed_s": 0.0,
        "encode_s": 0.0,
        "merge_s": 0.0,
        "keep_s": 0.0,
        "sealed": False,
        "quorum": 0,
        "overlap_steps": 0,
        "goes_on": False,
    }
    return Round(**{**fields, **changed})


def test_two_nodes_alike() -> None:
    """10 s of training, 2 MB up in 2 s, the other's 2 MB down in 1 s."""
    found = time_round(a_round())
    assert (found.period_s, found.train_s, found.exchange_s) == (13.0, 10.0, 3.0)
    assert found.utilisation == pytest.approx(10 / 13)


def test_merges_writing_and_what_is_fixed() -> None:
    """Encoding 0.5, up 2, then the core's merge while the other's comes, own merge, inner state, the rest."""
    found = time_round(a_round(encode_s=0.5, merge_s=1.5, keep_s=0.25, fixed_s=0.125))
    assert found.period_s == 10 + 0.5 + 2 + 1.5 + 1.5 + 0.25 + 0.125


def test_round_trips() -> None:
    """Four: half of them before the core has all. And: the word, the seal, a transfer's own, a manifest's."""
    slow = party(count=2, round_trip_s=0.1)
    found = time_round(a_round(slow, round_trips=4.0))
    assert found.period_s == pytest.approx(10 + 0.1 + (2 + 0.1) + 0.2 + (1 + 0.1) + 0.1 + 0.2)
    sealed = time_round(a_round(slow, round_trips=4.0, sealed=True))
    assert sealed.period_s == pytest.approx(found.period_s + 0.1)


def test_a_slow_member_is_waited_for_and_others_come_meanwhile() -> None:
    """b ends at 20 and is in at 22; a has fetched nothing of it before, b has fetched a's meanwhile."""
    a, b = party(name="a"), party(name="b", step_s=2.0)
    found = time_round(a_round(a, b))
    assert found.period_s == 23.0 and found.train_s == 20.0
    assert found.mean_train_s == 15.0 and slowest_party(a_round(a, b)) == "b"
    heavy = replace(a, weight=3.0)
    assert time_round(a_round(heavy, b)).mean_train_s == 12.5


def test_steps_hide_the_exchange() -> None:
    assert time_round(a_round(overlap_steps=2, goes_on=True)).period_s == 11.0
    assert time_round(a_round(overlap_steps=3, goes_on=True)).period_s == 10.0
    assert time_round(a_round(overlap_steps=9, goes_on=True, keep_s=5.0)).period_s == 10.0


def test_who_fetches_waits_for_the_merge_and_the_base() -> None:
    """All in at 12, merged at 13, 8 MB down in 4 s."""
    found = time_round(a_round(party(count=2, repeats=False), merge_s=1.0))
    assert found.period_s == 17.0


def test_the_link_of_the_core_is_shared() -> None:
    """20 nodes: 40 MB in at 10 MB/s, 760 MB out at 100 MB/s from the first that is in, at 12."""
    many = party(count=20, down=1e12)
    assert time_round(a_round(many, core_down=10 * MB)).period_s == pytest.approx(14.0)
    assert time_round(a_round(many, core_up=100 * MB)).period_s == pytest.approx(12 + 7.6)


def test_witnesses() -> None:
    """The second signature of two comes a round trip of b's after b is ready."""
    a, b = party(name="a"), party(name="b", round_trip_s=0.5, witness=True)
    free = time_round(a_round(a, b))
    assert time_round(a_round(a, b, quorum=2)).period_s == pytest.approx(free.period_s + 0.5)
    assert time_round(a_round(a, b, quorum=1)).period_s == pytest.approx(free.period_s)


def test_many_small_requests_wait_for_answers() -> None:
    """1,000 requests of 1 kB, four at a time, 0.1 s each way and back: 25 s, not 1 s."""
    it = party(round_trip_s=0.1)
    assert transfer_s(1 * MB, 1000, 1 * MB, it, 0.0) == pytest.approx(250 * (0.1 + 0.001))
    assert transfer_s(1 * MB, 1, 1 * MB, it, 0.0) == pytest.approx(1.1)
    assert transfer_s(0.0, 0, 1 * MB, it, 0.0) == 0.0


def test_what_limits() -> None:
    slow_link = savings(a_round())
    assert max((t for t in TERMS if t != "compute"), key=lambda t: slow_link[t]) == "node up"
    assert slow_link["node up"] == pytest.approx(2.0, abs=1e-4)
    assert slow_link["node down"] == pytest.approx(1.0, abs=1e-4)
    far = savings(a_round(party(count=2, round_trip_s=3.0), round_trips=10.0))
    assert max((t for t in TERMS if t != "compute"), key=lambda t: far[t]) == "latency"
    uneven = savings(a_round(party(name="a"), party(name="b", step_s=3.0)))
    assert uneven["slow members"] == pytest.approx(10.0)


def test_the_rate_that_is_needed() -> None:
    """8 s in 10 s of training: 2.5 s for 2 MB up and 2 MB down, 1.6 MB/s where both links have it."""
    rate = needed_rate(a_round(party(count=2, down=1 * MB)), 0.8)
    assert rate == pytest.approx(1.6 * MB, rel=1e-6)
    assert needed_rate(a_round(fixed_s=5.0), 0.8) is None, "no link helps against what is fixed"


rates = st.floats(min_value=1e4, max_value=1e9)
seconds = st.floats(min_value=0.0, max_value=10.0)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    listed = [
        party(
            name=name,
            count=draw(st.integers(1, 5)),
            step_s=draw(st.floats(0.01, 10.0)),
            up=draw(rates),
            down=draw(rates),
            round_trip_s=draw(st.floats(0.0, 1.0)),
            repeats=draw(st.booleans()),
        )
        for name in "abc"[: draw(st.integers(1, 3))]
    ]
    return a_round(
        *listed,
        core_up=draw(rates),
        core_down=draw(rates),
        round_trips=draw(st.floats(0.0, 20.0)),
        fixed_s=draw(seconds),
        encode_s=draw(seconds),
        merge_s=draw(seconds),
        keep_s=draw(seconds),
        sealed=draw(st.booleans()),
        quorum=draw(st.integers(0, 3)),
        overlap_steps=draw(st.integers(0, 9)),
        goes_on=draw(st.booleans()),
    )


@given(it=rounds(), faster=st.floats(1.0, 100.0))
def test_what_is_faster_never_makes_a_round_longer(it: Round, faster: float) -> None:
    period = time_round(it).period_s * (1 + 1e-9)
    for field in ("up", "down"):
        parties = [replace(p, **{field: getattr(p, field) * faster}) for p in it.parties]
        assert time_round(replace(it, parties=parties)).period_s <= period
    nearer = [replace(p, round_trip_s=p.round_trip_s / faster) for p in it.parties]
    assert time_round(replace(it, parties=nearer)).period_s <= period
    assert time_round(replace(it, core_up=it.core_up * faster)).period_s <= period
    assert time_round(replace(it, overlap_steps=it.overlap_steps + 1)).period_s <= period
    smaller = replace(it.load, delta=it.load.delta / faster)
    assert time_round(replace(it, load=smaller)).period_s <= period


@given(it=rounds())
def test_a_round_is_never_shorter_than_training_and_never_waits_for_nothing(it: Round) -> None:
    found = time_round(it)
    assert found.period_s >= found.train_s
    assert 0 < found.utilisation <= 1 + 1e-9
    for term in set(TERMS) - {"compute", "slow members"}:
        assert time_round(without(it, term)).period_s <= found.period_s * (1 + 1e-9), term
