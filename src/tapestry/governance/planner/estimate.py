"""The estimate itself: every figure of a scenario, each in three cases, and what it would take by other
algorithms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from tapestry.governance.planner import exchange, keeping, timing
from tapestry.governance.planner.members import Member, as_spread
from tapestry.governance.planner.scaling import Loss, expected_loss
from tapestry.governance.planner.scenario import Scenario
from tapestry.governance.planner.spread import CORNERS, Corner, Spread, total
from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Merge, Plan, Streaming

HOUR_S: Final = 3600.0
MONTH_S: Final = 30 * 24 * HOUR_S
ABSENCE: Final = "absence"
LIMITS: Final = {**timing.TERMS, ABSENCE: "waiting until the deadline for members that do not deliver"}
"""What the rounds of a run may wait for."""
UNTIMED: Final[frozenset[AlgorithmName]] = frozenset({"delayed"})
"""Nobody waits for anybody there, so there is no round to time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberEstimate:
    """Of one node of a member, or of members alike."""

    name: str
    count: int
    tokens_per_s: Spread
    train_s: Spread
    sent_round: Spread
    received_round: Spread
    sent_run: Spread
    received_run: Spread
    disk: float
    memory: float | None
    """Of an accelerator; None where its kind is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of training the same: bytes of a node for each round's steps, and how much of its time it
    trains."""

    name: str
    sent: float
    received: float
    period_s: Spread | None
    """For as many steps as the plan's round has; None where there is no round to time."""
    utilisation: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Money:
    """None where a price is not given."""

    compute: Spread | None
    traffic: Spread | None
    storage: Spread | None

    @property
    def total(self) -> Spread | None:
        known = [each for each in (self.compute, self.traffic, self.storage) if each is not None]
        return total(known) if known else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Everything; seconds and bytes."""

    parameters: int
    flops_per_token: float
    tokens: int
    delivered_tokens: Spread
    rounds: int
    nodes: int
    steps: int
    step_s: Spread
    train_s: Spread
    exchange_s: Spread
    period_s: Spread
    """A round in which everybody delivers."""
    expected_s: Spread
    """With the waits for those who do not."""
    utilisation: Spread
    wall_s: Spread
    limits: dict[str, Spread]
    """By what a round waits for: seconds that it would be shorter without."""
    slowest: str
    needed_rate: float | None
    """Bytes a second each way at which nodes train as much of their time as is the goal; None: no link is."""
    members: tuple[MemberEstimate, ...]
    core_sent_run: float
    core_disk: float
    ways: tuple[Way, ...]
    accelerator_hours: Spread
    money: Money
    loss: Loss

    def memory_of(self, member: str) -> float | None:
        """Of one of a member's accelerators, bytes."""
        return next(each.memory for each in self.members if each.name == member)


def estimate(scenario: Scenario) -> Estimate:
    """Raises nothing: what cannot be is what `lacking` finds."""
    steps = scenario.plan.inner.steps
    rounds = {corner: scenario.round(corner, steps) for corner in CORNERS}

    def timed(corner: Corner) -> timing.Timed:
        return timing.time_round(rounds[corner])

    saved = {corner: timing.savings(each) for corner, each in rounds.items()}
    expected = Spread.over(lambda c: scenario.expected_round_s(c, steps))
    period = Spread.over(lambda c: timed(c).period_s)
    wall = Spread.over(lambda c: _wall_s(scenario, c))
    middle = rounds["middle"]
    tokens = scenario.tokens(scenario.rounds)
    delivered = Spread.over(lambda c: tokens * scenario.delivered(c))
    members = tuple(_member(scenario, member) for member in scenario.members.members)
    hours = Spread.over(lambda c: _accelerators(scenario) * wall.at(c) / HOUR_S)
    return Estimate(
        parameters=scenario.work.parameters,
        flops_per_token=scenario.work.flops_per_token,
        tokens=tokens,
        delivered_tokens=delivered,
        rounds=scenario.rounds,
        nodes=scenario.nodes,
        steps=steps,
        step_s=Spread.over(lambda c: timed(c).train_s / steps),
        train_s=Spread.over(lambda c: timed(c).train_s),
        exchange_s=Spread.over(lambda c: timed(c).exchange_s),
        period_s=period,
        expected_s=expected,
        utilisation=Spread.over(lambda c: timed(c).mean_train_s / expected.at(c)),
        wall_s=wall,
        limits={
            **{term: Spread(*(saved[c][term] for c in CORNERS)) for term in timing.TERMS},
            ABSENCE: Spread.over(lambda c: expected.at(c) - period.at(c)),
        },
        slowest=timing.slowest_party(middle),
        needed_rate=timing.needed_rate(middle, scenario.members.goal.utilisation),
        members=members,
        core_sent_run=sum(each.count * each.received_run.middle for each in members),
        core_disk=keeping.core_disk(
            scenario.plan, scenario.load, scenario.work.parameters, scenario.nodes, scenario.rounds
        ),
        ways=ways(scenario),
        accelerator_hours=hours,
        money=_money(scenario, wall, members),
        loss=expected_loss(scenario.work.parameters, delivered.middle),
    )


def _wall_s(scenario: Scenario, corner: Corner) -> float:
    """Of the whole run: all fetch the initial base, then rounds."""
    first = scenario.round(corner, scenario.plan.inner.steps)
    slowest = min(party.down for party in first.parties)
    joining = max(scenario.load.base / slowest, scenario.nodes * scenario.load.base / first.core_up)
    return joining + sum(
        times * scenario.expected_round_s(corner, steps) for times, steps in scenario.stages(scenario.rounds)
    )


def _member(scenario: Scenario, member: Member) -> MemberEstimate:
    plan, steps = scenario.plan, scenario.plan.inner.steps

    def over_run(way: str) -> Spread:
        return Spread.over(
            lambda c: (
                sum(
                    times * getattr(scenario.moved(member, c, length), way)
                    for times, length in scenario.stages(scenario.rounds)
                )
                + (scenario.load.base if way == "received" else 0)
            )
        )

    repeats = plan.repeats_merges(member.name)
    memory = keeping.accelerator_memory(plan, scenario.layout, scenario.work, member.accelerators)
    return MemberEstimate(
        name=member.name,
        count=member.count,
        tokens_per_s=scenario.pace(member),
        train_s=Spread.over(
            lambda c: next(p for p in scenario.round(c, steps).parties if p.name == member.name).train_s
        ),
        sent_round=Spread.over(lambda c: scenario.moved(member, c, steps).sent),
        received_round=Spread.over(lambda c: scenario.moved(member, c, steps).received),
        sent_run=over_run("sent"),
        received_run=over_run("received"),
        disk=keeping.node_disk(
            plan, scenario.load, scenario.work.parameters, scenario.nodes, scenario.rounds, repeats=repeats
        ),
        memory=memory if member.peak_flops is not None else None,
    )


# -- other ways ---------------------------------------------------------------------------------


def ways(scenario: Scenario) -> tuple[Way, ...]:
    """The plan as it is; each algorithm in its place, dense and sparse; synchronous data parallel."""
    found = [_way("this plan", scenario)]
    other = "fetch" if scenario.plan.sync == "replay" else "replay"
    found.append(_way(f"this plan, sync = {other}", replace(scenario, plan=_synced(scenario.plan, other))))
    for name in ALGORITHMS:
        found.append(_by_algorithm(name, scenario))
    found.append(_data_parallel(scenario))
    return tuple(found)


def _by_algorithm(name: AlgorithmName, scenario: Scenario) -> Way:
    """Where steps go on meanwhile, as many of them as the exchange takes."""
    other = replace(scenario, plan=_by(scenario.plan, name))
    plan, label = other.plan, str(name)
    if plan.streaming.overlap_steps:
        timed = timing.time_round(other.round("middle", plan.inner.steps))
        ahead = ceil(timed.exchange_s * plan.inner.steps / timed.train_s)
        ahead = min(max(1, ahead), plan.inner.steps - 1)
        streaming = plan.streaming.model_copy(update={"overlap_steps": ahead})
        other = replace(other, plan=plan.model_copy(update={"streaming": streaming}))
        label += f", {ahead} of {plan.inner.steps} steps ahead"
    return _way(label, other, timed=name not in UNTIMED)


def _by(plan: Plan, name: AlgorithmName) -> Plan:
    """The plan with another algorithm; its own steps, in as many rounds for each step as it has fragments."""
    tables = ALGORITHMS[name].tables()
    streaming = Streaming(**tables["streaming"])
    steps = max(1, plan.inner.steps // streaming.fragments)
    if steps < 2:
        streaming = streaming.model_copy(update={"overlap_steps": 0})
    optimizer = tables["inner"].get("optimizer", "adamw")
    return plan.model_copy(
        update={
            "codec": Codec(**tables["codec"]),
            "merge": Merge(**tables["merge"]),
            "streaming": streaming,
            "inner": plan.inner.model_copy(update={"steps": steps, "schedule": (), "optimizer": optimizer}),
        }
    )


def _synced(plan: Plan, sync: str) -> Plan:
    return plan.model_copy(update={"sync": sync})


def _way(name: str, scenario: Scenario, *, timed: bool = True) -> Way:
    plan, members = scenario.plan, scenario.members.members
    steps, times = plan.inner.steps, plan.streaming.fragments
    each = [scenario.moved(member, "middle", steps) for member in members]
    found = {c: timing.time_round(scenario.round(c, steps)) for c in CORNERS}
    return Way(
        name=name,
        sent=times * max(one.sent for one in each),
        received=times * max(one.received for one in each),
        period_s=Spread.over(lambda c: times * found[c].period_s) if timed else None,
        utilisation=Spread.over(lambda c: found[c].utilisation) if timed else None,
    )


def _data_parallel(scenario: Scenario) -> Way:
    """A ring all-reduce of fp32 gradients each step, over the same links, the slowest of which sets the
    pace."""
    steps, nodes = scenario.plan.inner.steps, scenario.nodes
    size = exchange.all_reduce_bytes(scenario.work.parameters, nodes)

    def step(corner: Corner) -> tuple[float, float]:
        it = scenario.round(corner, 1)
        slowest = max(p.step_s for p in it.parties)
        rate = min(min(p.up, p.down) for p in it.parties)
        waits = 2 * (nodes - 1) * max(p.round_trip_s for p in it.parties) / 2
        return slowest, slowest + (size / rate + waits if nodes > 1 else 0.0)

    return Way(
        name="data parallel",
        sent=steps * size,
        received=steps * size,
        period_s=Spread.over(lambda c: steps * step(c)[1]),
        utilisation=Spread.over(lambda c: step(c)[0] / step(c)[1]),
    )


# -- money --------------------------------------------------------------------------------------


def _accelerators(scenario: Scenario) -> int:
    return sum(each.count * each.accelerators for each in scenario.members.members)


def _money(scenario: Scenario, wall: Spread, members: tuple[MemberEstimate, ...]) -> Money:
    prices = scenario.members.prices
    gb_sent = None if prices.gb_sent is None else as_spread(prices.gb_sent, more_is_better=False)
    month = None if prices.gb_month is None else as_spread(prices.gb_month, more_is_better=False)

    def sent(corner: Corner) -> float:
        """Of nodes and, as what they receive, of the core."""
        return sum(m.count * (m.sent_run.at(corner) + m.received_run.at(corner)) for m in members) / 1e9

    kept = (scenario_disk(members) + keeping_of_core(scenario)) / 1e9
    return Money(
        compute=_compute(scenario, wall),
        traffic=None if gb_sent is None else Spread.over(lambda c: gb_sent.at(c) * sent(c)),
        storage=None
        if month is None
        else Spread.over(lambda c: month.at(c) * kept * max(1, ceil(wall.at(c) / MONTH_S))),
    )


def _compute(scenario: Scenario, wall: Spread) -> Spread | None:
    """Accelerators are held from the first round to the last. None where some price is not given."""
    parts = []
    for member in scenario.members.members:
        given = scenario.members.prices.accelerator_hour
        price = member.accelerator_hour if member.accelerator_hour is not None else given
        if price is None:
            return None
        hourly, held = as_spread(price, more_is_better=False), member.count * member.accelerators
        parts.append(Spread(*(hourly.at(c) * held * wall.at(c) / HOUR_S for c in CORNERS)))
    return total(parts)


def scenario_disk(members: tuple[MemberEstimate, ...]) -> float:
    """Of all nodes at the end of the run."""
    return sum(each.count * each.disk for each in members)


def keeping_of_core(scenario: Scenario) -> float:
    return keeping.core_disk(
        scenario.plan, scenario.load, scenario.work.parameters, scenario.nodes, scenario.rounds
    )
