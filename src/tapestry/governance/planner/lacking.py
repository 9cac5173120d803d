"""What is missing before a run may start: every need that is above what there is, computed, never assumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

from tapestry.governance.planner import keeping
from tapestry.governance.planner.estimate import HOUR_S, LIMITS, Estimate
from tapestry.governance.planner.members import Member
from tapestry.governance.planner.scenario import Scenario
from tapestry.protocol.artifact import Artifact

Unit = Literal[
    "B", "bit/s", "s", "h", "tokens", "money", "part", "sequences", "nodes", "rounds", "parameters"
]
DAY_S: Final = 24 * HOUR_S
MEMORY_PART: Final = 0.9
"""Of an accelerator's memory that a model may take; the rest is the driver's and fragmentation."""
SURE: Final = 0.99
LARGEST_MEASURED: Final = 1_047_000_000
"""Parameters of the largest model whose whole round was measured: benchmarks/results, `large`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """One thing.

    Args:
        what: in a word or two, for machines too.
        who: a member, `core`, or `run`.
        need: in `unit`, in the middle case.
        have: None where nothing was said.
        unit: of both.
        remedy: what to change.
    """

    what: str
    who: str
    need: float
    have: float | None
    unit: Unit
    remedy: str

    @property
    def factor(self) -> float | None:
        """How many times too little, or too much, there is."""
        if not self.have or not self.need:
            return None
        return max(self.need / self.have, self.have / self.need)


def lacking(found: Estimate, scenario: Scenario) -> tuple[Lack, ...]:
    """In the order in which one would ask for it: can it run, will rounds close, is it worth it, is it
    paid."""
    return (
        *_machines(found, scenario),
        *_limits_of_formats(found, scenario),
        *_rounds(found, scenario),
        *_pace(found, scenario),
        *_pledges(found, scenario),
        *_evidence(found, scenario),
    )


def _machines(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    for member, each in zip(scenario.members.members, found.members, strict=True):
        have = member.accelerator_memory_bytes
        if each.memory is not None and have is not None and each.memory > MEMORY_PART * have:
            yield Lack(
                what="memory",
                who=member.name,
                need=each.memory,
                have=MEMORY_PART * have,
                unit="B",
                remedy=_more_memory(found, scenario, member, MEMORY_PART * have),
            )
        sequences = scenario.plan.inner.batch_sequences
        if member.accelerators > sequences and member.peak_flops is not None:
            yield Lack(
                what="batch",
                who=member.name,
                need=member.accelerators,
                have=sequences,
                unit="sequences",
                remedy="raise inner.batch_sequences, lower accumulation: a rank without a sequence idles",
            )
        if member.disk_gb is not None and each.disk > member.disk_gb * 1e9:
            yield Lack(
                what="disk",
                who=member.name,
                need=each.disk,
                have=member.disk_gb * 1e9,
                unit="B",
                remedy="keep fewer rounds (retention.blob_rounds), or take a codec with fewer bits",
            )
    disk = scenario.members.core.disk_gb
    if disk is not None and found.core_disk > disk * 1e9:
        yield Lack(
            what="disk",
            who="core",
            need=found.core_disk,
            have=disk * 1e9,
            unit="B",
            remedy="an object store; a core keeps the state of every merge, so fewer and longer rounds help",
        )


def _more_memory(found: Estimate, scenario: Scenario, member: Member, have: float) -> str:
    whole = found.parameters * keeping.shared_bytes(scenario.plan)
    left = have - ((found.memory_of(member.name) or 0.0) - whole / member.accelerators)
    if left <= 0:
        return "shorter sequences: activations alone are too large"
    return f"{ceil(whole / left)} accelerators in the node, or larger ones"


def _limits_of_formats(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    load, plan = scenario.load, scenario.plan
    if load.base_manifest > Artifact.MAX_BYTES:
        yield Lack(
            what="manifest",
            who="run",
            need=load.base_manifest,
            have=Artifact.MAX_BYTES,
            unit="B",
            remedy="raise model.shard_bytes",
        )
    pending = scenario.members.core.pending_gb * 1e9
    if load.largest_delta + load.manifest > pending:
        yield Lack(
            what="pending bytes",
            who="core",
            need=load.largest_delta + load.manifest,
            have=pending,
            unit="B",
            remedy="raise limits.pending_bytes in core.toml, or take fewer bits or more fragments",
        )
    if plan.rounds.min_nodes > found.nodes:
        yield Lack(
            what="members",
            who="run",
            need=plan.rounds.min_nodes,
            have=found.nodes,
            unit="nodes",
            remedy="lower rounds.min_nodes, or find more members",
        )


def _rounds(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    plan = scenario.plan
    counted = [each for each in scenario.members.members if plan.witness.counts(each.name)]
    witnesses = sum(each.count for each in counted if plan.repeats_merges(each.name))
    if plan.witness.quorum > witnesses:
        yield Lack(
            what="witnesses",
            who="run",
            need=plan.witness.quorum,
            have=witnesses,
            unit="nodes",
            remedy="name members of the members file in witness.members, or lower witness.quorum",
        )
    longest = _before_s(scenario) + found.exchange_s.worst
    if longest > plan.rounds.deadline_s:
        yield Lack(
            what="deadline",
            who=found.slowest,
            need=longest,
            have=plan.rounds.deadline_s,
            unit="s",
            remedy="raise rounds.deadline_s, or take fewer steps, or score less: who is later is left out",
        )
    reveal, sending = plan.rounds.reveal_s, _sending_s(scenario)
    if reveal is not None and sending > reveal:
        yield Lack(
            what="reveal",
            who=found.slowest,
            need=sending,
            have=reveal,
            unit="s",
            remedy="raise rounds.reveal_s: updates take longer to send than the plan waits for them",
        )
    chance = scenario.chance_of_quorum("worst")
    if chance < SURE:
        yield Lack(
            what="quorum",
            who="run",
            need=SURE,
            have=chance,
            unit="part",
            remedy="lower rounds.quorum, or ask for more dependable nodes: so often a round has its quorum",
        )


def _before_s(scenario: Scenario) -> float:
    """From the opening of a round in which the base is scored until the last node has trained, in the worst
    case."""
    it = scenario.round("worst", scenario.plan.inner.steps)
    return max(p.train_s + p.evaluate_s * scenario.plan.evaluation.every_rounds for p in it.parties)


def _sending_s(scenario: Scenario) -> float:
    """The longest that one node's update takes to the core, in the worst case."""
    it = scenario.round("worst", scenario.plan.inner.steps)
    size = it.load.largest_delta + it.load.manifest
    return max(max(size / p.up for p in it.parties), it.nodes * size / it.core_down)


def _pace(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    goal = scenario.members.goal
    if found.utilisation.middle < goal.utilisation:
        term = max(
            (name for name in found.limits if name != "compute"), key=lambda name: found.limits[name].middle
        )
        yield Lack(
            what="utilisation",
            who="run",
            need=goal.utilisation,
            have=found.utilisation.middle,
            unit="part",
            remedy=f"most time goes here: {LIMITS[term]}",
        )
        yield from _faster_links(found, scenario)
    if goal.days is not None and found.wall_s.middle > goal.days * DAY_S:
        yield Lack(
            what="time",
            who="run",
            need=found.wall_s.middle,
            have=goal.days * DAY_S,
            unit="s",
            remedy="more compute, fewer tokens, or a smaller model; and what raises utilisation",
        )


def _faster_links(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    if found.needed_rate is None:
        return
    efficiency = scenario.rates.link_efficiency.middle
    need = found.needed_rate * 8 / efficiency
    for member in scenario.members.members:
        have = min(member.up_mbit, member.down_mbit) * 1e6
        if have < need:
            yield Lack(
                what="link",
                who=member.name,
                need=need,
                have=have,
                unit="bit/s",
                remedy="this rate each way (and as much for each node at the core) reaches the goal",
            )


def _pledges(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    listed = scenario.members.members
    for member in listed:
        pledged = member.committed.accelerator_hours
        need = member.accelerators * found.wall_s.middle / HOUR_S
        if pledged is not None and need > pledged:
            yield Lack(
                what="compute",
                who=member.name,
                need=need,
                have=pledged,
                unit="h",
                remedy="accelerator hours pledged are fewer than the whole run holds",
            )
    texts = [each.committed.tokens for each in listed]
    if any(text is not None for text in texts):
        have = sum(each.count * (each.committed.tokens or 0.0) for each in listed)
        need = found.delivered_tokens.middle / scenario.members.goal.epochs
        if need > have:
            yield Lack(
                what="text",
                who="run",
                need=need,
                have=have,
                unit="tokens",
                remedy=f"text seen {scenario.members.goal.epochs:g} times at most would have to be so much",
            )
    funds = [each.committed.funds for each in listed]
    cost = found.money.total
    if cost is not None and any(fund is not None for fund in funds):
        have = sum(each.count * (each.committed.funds or 0.0) for each in listed)
        if cost.middle > have:
            yield Lack(
                what="funds",
                who="run",
                need=cost.middle,
                have=have,
                unit="money",
                remedy="more funds, or less",
            )


def _evidence(found: Estimate, scenario: Scenario) -> Iterator[Lack]:
    if not scenario.rates.rounds:
        yield Lack(
            what="recorded rounds",
            who="run",
            need=1,
            have=0,
            unit="rounds",
            remedy="no constant is measured here: calibrate with a node that has trained (--calibrate NODE)",
        )
    if found.parameters > LARGEST_MEASURED:
        yield Lack(
            what="rehearsal",
            who="run",
            need=found.parameters,
            have=LARGEST_MEASURED,
            unit="parameters",
            remedy="no whole round of a model this large was measured; rehearse a few rounds of it first",
        )
