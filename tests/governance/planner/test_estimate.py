"""A whole estimate by hand, and what holds between its figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.governance.planner import keeping
from tapestry.governance.planner.estimate import estimate
from tapestry.governance.planner.members import Goal, Prices
from tapestry.governance.planner.spread import CORNERS, Spread
from tapestry.protocol.algorithms import ALGORITHMS
from tapestry.protocol.plan import Inner, Merge, Rounds, Stage, Streaming
from tests.governance.planner.made import PARAMETERS, exact, layout, member, members, plan, scenario


def test_two_members_by_hand() -> None:
    """10 steps of 100 tokens at 1,000 a second take 1 s; a contribution crosses 1 MB/s twice."""
    given = scenario(who=members(prices=Prices(accelerator_hour=3600.0, gb_sent=1e9, gb_month=1.0)))
    own = given.load.delta + given.load.manifest
    found = estimate(given)
    assert (found.rounds, found.nodes, found.tokens) == (10, 2, 2 * 10 * 1000)
    assert found.step_s.middle == pytest.approx(0.1) and found.train_s.middle == pytest.approx(1.0)
    assert found.period_s.middle == pytest.approx(1.0 + 2 * own / 1e6, rel=1e-3)
    joining = given.load.base / 1e6
    assert found.wall_s.middle == pytest.approx(joining + 10 * found.period_s.middle, rel=1e-6)
    assert found.utilisation.middle == pytest.approx(1 / found.period_s.middle)
    one = found.members[0]
    assert one.sent_run.middle == pytest.approx(10 * one.sent_round.middle)
    assert one.received_run.middle == pytest.approx(10 * one.received_round.middle + given.load.base)
    money = found.money
    assert money.compute is not None and money.compute.middle == pytest.approx(2 * found.wall_s.middle)
    assert money.traffic is not None
    assert money.traffic.middle == pytest.approx(2 * (one.sent_run.middle + one.received_run.middle))
    assert money.total is not None and money.total.middle > money.compute.middle + money.traffic.middle


def test_tokens_of_the_goal_decide_how_many_rounds() -> None:
    assert estimate(scenario(who=members(goal=Goal(tokens=20_001)))).rounds == 11
    assert estimate(scenario(who=members(goal=Goal(tokens=20_000)))).rounds == 10
    assert estimate(scenario(who=members(goal=Goal(tokens=1)))).rounds == 1


def test_steps_by_schedule_and_pace() -> None:
    inner = Inner(
        steps=10,
        schedule=(Stage(after_merges=4, steps=20),),
        paces={"b": 0.5},
        sequence_length=50,
        batch_sequences=2,
    )
    given = scenario(inner=inner)
    assert list(given.stages(10)) == [(4, 10), (6, 20)]
    assert given.tokens(10) == (4 * 10 + 6 * 20) * 100 + (4 * 5 + 6 * 10) * 100


def test_a_member_that_may_fail_costs_the_wait_for_the_deadline() -> None:
    """Two of chance 0.9: with 0.19 a round lasts until the deadline."""
    who = members(member("a", available=0.9), member("b", available=0.9))
    found = estimate(scenario(who=who, rounds=Rounds(total=10, quorum=1, deadline_s=101.0)))
    assert found.expected_s.middle == pytest.approx(found.period_s.middle + 0.19 * 100.0)
    assert max(found.limits, key=lambda term: found.limits[term].middle) == "absence"
    assert found.limits["absence"].middle == pytest.approx(19.0)
    given = scenario(who=who, rounds=Rounds(total=10, min_nodes=2, quorum=2, deadline_s=101.0))
    assert given.chance_of_quorum("middle") == pytest.approx(0.81)
    assert scenario(who=who).chance_of_quorum("middle") == pytest.approx(0.99)


def test_disk_by_hand() -> None:
    """4 P of parameters; no momentum: initial base, head and the one before; 4 rounds of 2 contributions."""
    given = scenario()
    own, base = given.load.delta + given.load.manifest, 4 * PARAMETERS
    inner = 2 * 8 * PARAMETERS
    args = (given.plan, given.load, PARAMETERS, 2, 10)
    assert keeping.node_disk(*args, repeats=True) == 3 * base + 4 * 2 * own + inner
    assert keeping.node_disk(*args, repeats=False) == 3 * base + 4 * own + inner
    assert keeping.core_disk(*args) == base + 10 * base + 4 * 2 * own
    nesterov = plan(merge=Merge())
    assert keeping.core_disk(nesterov, *args[1:]) == base + 10 * 2 * base + 4 * 2 * own


def test_memory_is_shared_by_the_accelerators_of_a_node() -> None:
    given = scenario()
    one, four = (keeping.accelerator_memory(given.plan, given.layout, given.work, n) for n in (1, 4))
    assert one - four == pytest.approx(16 * PARAMETERS * 3 / 4)
    assert one == 16 * PARAMETERS + 2 * 2 * 12_288 + 50 * 64 * (2 * 2 + 34) + 8 * 50 * 100


def test_every_algorithm_is_compared_and_few_bits_send_fewer_bytes() -> None:
    found = {way.name.split(",")[0]: way for way in estimate(scenario()).ways}
    assert set(ALGORITHMS) | {"this plan", "data parallel"} == set(found)
    assert found["sparseloco"].sent < found["muloco"].sent < found["diloco"].sent
    reduce = found["data parallel"]
    assert reduce.sent == 10 * 2 * (1 / 2) * 4 * PARAMETERS, "each of ten steps"
    assert reduce.period_s is not None and found["diloco"].period_s is not None
    assert reduce.period_s.middle > found["diloco"].period_s.middle
    assert found["delayed"].period_s is None
    streaming = found["streaming"]
    assert streaming.utilisation is not None and streaming.utilisation.middle > 0.95


def test_cases_stand_in_their_order_and_bound_the_middle() -> None:
    doubtful = exact().with_measured(
        {"link_efficiency": Spread(1.0, 0.8, 0.5), "fixed_s": Spread(0.0, 0.5, 2.0)}, "given"
    )
    who = members(
        member("a", tokens_per_s=(500.0, 1500.0)), member("b", tokens_per_s=2000.0, available=(0.8, 1.0))
    )
    found = estimate(scenario(who=who, rates=doubtful))
    for spread in (found.period_s, found.expected_s, found.wall_s, found.train_s, found.accelerator_hours):
        assert spread.best < spread.middle < spread.worst
    assert found.utilisation.best > found.utilisation.worst
    assert set(CORNERS) == {"best", "middle", "worst"}


def test_fragments_send_their_part() -> None:
    whole, halves = scenario(), scenario(streaming=Streaming(fragments=2))
    assert halves.load.delta == whole.load.delta / 2
    sent = [estimate(each).members[0].sent_round.middle for each in (whole, halves)]
    assert sent[0] - sent[1] > whole.load.delta / 2


def test_hardware_gives_a_pace() -> None:
    """2 accelerators of 1 TFLOP/s at 0.263040: 2e12 · 0.26304 / 263,040 operations a token."""
    who = members(member("a", peak_tflops=1.0, accelerators=2, utilisation=0.263040))
    given = scenario(who=who)
    assert given.pace(who.members[0]).middle == pytest.approx(2e6)
    assert layout().elements == given.work.parameters


@given(
    pace=st.floats(100.0, 1e5),
    faster=st.floats(1.0, 10.0),
    mbit=st.floats(0.1, 1e4),
    steps=st.integers(1, 100),
    available=st.floats(0.5, 1.0),
)
def test_what_is_better_never_takes_longer(
    pace: float, faster: float, mbit: float, steps: int, available: float
) -> None:
    """What makes the three cases bound all that lies between."""

    def expected(**changed: float) -> float:
        fields = {"tokens_per_s": pace, "up_mbit": mbit, "down_mbit": mbit, "available": available}
        who = members(*(member(name, **{**fields, **changed}) for name in "ab"))
        rounds = Rounds(total=10, deadline_s=60.0)
        inner = Inner(steps=steps, sequence_length=50, batch_sequences=2)
        return scenario(who=who, rounds=rounds, inner=inner).expected_round_s("middle", steps)

    before = expected() * (1 + 1e-9)
    assert expected(tokens_per_s=pace * faster) <= before
    assert expected(up_mbit=mbit * faster, down_mbit=mbit * faster) <= before
    assert expected(available=min(1.0, available * faster)) <= before
