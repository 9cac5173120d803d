"""A plan, its model and who would take part, turned into rounds whose time can be reckoned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import ceil, prod
from typing import Final

from tapestry.governance.planner import exchange, keeping, timing
from tapestry.governance.planner.load import Load, Work
from tapestry.governance.planner.members import Member, MembersFile, as_spread
from tapestry.governance.planner.rates import DEFAULT, Constants, Rates
from tapestry.governance.planner.spread import Corner, Spread
from tapestry.protocol.encoding import Codec
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Plan

HOST_ACCELERATORS: Final = 8
"""Of one host, whose disk is its own: deltas and inner states are written by all hosts of a node at once."""
FORWARD: Final = 1 / 3
"""Of the operations of a training step."""
PARALLEL: Final = 4
"""Requests under way at once: `transfer.parallel` of node.toml as it is set."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is to be estimated.

    Args:
        plan: in force for the whole run.
        layout: of its model. Fragments of another plan than the layout's are taken as equal parts.
        members: who takes part, over which links, with what.
        rates: constants of the formulas.
        loads: what was worked out of this layout before, by codec and fragments.
    """

    plan: Plan
    layout: Layout
    members: MembersFile
    rates: Rates = DEFAULT
    loads: dict[tuple[Codec, int], Load] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def work(self) -> Work:
        return Work.of(self.layout, self.plan.inner.sequence_length)

    @cached_property
    def load(self) -> Load:
        key = (self.plan.codec, self.plan.streaming.fragments)
        if key not in self.loads:
            self.loads[key] = Load.of(self.layout, *key)
        return self.loads[key]

    @property
    def nodes(self) -> int:
        return self.members.nodes

    @cached_property
    def rounds(self) -> int:
        """Of the plan; or so many as the goal's tokens take."""
        goal = self.members.goal.tokens
        if goal is None:
            return self.plan.rounds.total
        low, high = 1, max(1, goal)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.tokens(middle) >= goal else (middle + 1, high)
        return low

    def tokens(self, rounds: int) -> int:
        """Of all members in the first so many rounds, where everybody delivers."""
        return sum(
            member.count * self.plan.inner.tokens_in(self._steps(length, member)) * times
            for times, length in self.stages(rounds)
            for member in self.members.members
        )

    def stages(self, rounds: int) -> Iterator[tuple[int, int]]:
        """How many rounds of how many steps."""
        inner = self.plan.inner
        edges = [0, *(s.after_merges for s in inner.schedule if s.after_merges < rounds), rounds]
        for start, end in pairwise(edges):
            yield end - start, inner.steps_at(start)

    def _steps(self, length: int, member: Member) -> int:
        return max(1, round(length * self.plan.inner.paces.get(member.name, 1.0)))

    # -- one case -------------------------------------------------------------------------------

    def pace(self, member: Member) -> Spread:
        """Tokens a second of a member's node: as recorded, or as the members file has it."""
        recorded = self.rates.pace_of(member.name)
        if recorded is None:
            return member.pace(self.work.flops_per_token)
        each = self.work.flops_per_token
        return Spread(recorded.best / each, recorded.middle / each, recorded.worst / each)

    def round(self, corner: Corner, steps: int) -> timing.Round:
        """A round of so many steps, in one case."""
        plan, load, rates, core = self.plan, self.load, self.rates.at(corner), self.members.core
        hosts = min(ceil(each.accelerators / HOST_ACCELERATORS) for each in self.members.members)
        inner = keeping.inner_bytes(plan, self.work.parameters)
        return timing.Round(
            parties=[self._party(member, corner, steps, rates) for member in self.members.members],
            load=load,
            core_up=core.up_mbit * 1e6 / 8 * rates.link_efficiency,
            core_down=core.down_mbit * 1e6 / 8 * rates.link_efficiency,
            round_trips=rates.round_trips,
            request_s=rates.request_s,
            fixed_s=rates.fixed_s,
            encode_s=load.dense / (rates.encode_bytes_s * hosts),
            merge_s=self._merge_s(rates),
            keep_s=inner / (rates.disk_bytes_s * hosts),
            sealed=plan.rounds.reveal_s is not None,
            quorum=plan.witness.quorum,
            overlap_steps=plan.streaming.overlap_steps,
            goes_on=plan.streaming.goes_on,
        )

    def _party(self, member: Member, corner: Corner, steps: int, rates: Constants) -> timing.Party:
        plan, pace = self.plan, self.pace(member).at(corner)
        scored = plan.evaluation.max_tokens * FORWARD / pace / plan.evaluation.every_rounds
        return timing.Party(
            name=member.name,
            count=member.count,
            step_s=plan.inner.tokens_in(1) / pace,
            steps=self._steps(steps, member),
            evaluate_s=scored,
            up=member.up_mbit * 1e6 / 8 * rates.link_efficiency,
            down=member.down_mbit * 1e6 / 8 * rates.link_efficiency,
            round_trip_s=member.round_trip_ms / 1000,
            parallel=PARALLEL,
            repeats=plan.repeats_merges(member.name),
            witness=plan.witness.counts(member.name),
            weight=member.accelerators,
        )

    def _merge_s(self, rates: Constants) -> float:
        plan, load = self.plan, self.load
        state = keeping.state_bytes(plan, self.work.parameters) / plan.streaming.fragments
        moved = self.nodes * load.delta + 2 * state
        decoded = 0.0 if plan.codec.plain else self.nodes * load.dense / rates.decode_bytes_s
        return moved / rates.merge_bytes_s + decoded

    def moved(self, member: Member, corner: Corner, steps: int) -> exchange.Moved:
        """Bytes of one of a member's nodes in a round of so many steps."""
        rates = self.rates.at(corner)
        length = self.plan.inner.tokens_in(self._steps(steps, member)) / self.pace(member).at(corner)
        return exchange.moved(
            self.load,
            self.nodes,
            repeats=self.plan.repeats_merges(member.name),
            looks_back=self.plan.codec.error_feedback is not None,
            train_s=length,
            sent_part=rates.sent_messages,
            received_part=rates.received_messages,
        )

    # -- who delivers ---------------------------------------------------------------------------

    def _available(self, corner: Corner) -> list[float]:
        """Of each node."""
        listed = self.members.members
        chances = [as_spread(each.available, more_is_better=True).at(corner) for each in listed]
        return [chance for chance, each in zip(chances, listed, strict=True) for _ in range(each.count)]

    def chance_of_all(self, corner: Corner) -> float:
        """That every node delivers in a round, each independently of the others."""
        return prod(self._available(corner))

    def chance_of_quorum(self, corner: Corner) -> float:
        """That at least `rounds.quorum` nodes deliver: the Poisson binomial distribution."""
        exactly = [1.0]
        for chance in self._available(corner):
            more = [0.0, *(p * chance for p in exactly)]
            exactly = [a + b for a, b in zip([*(p * (1 - chance) for p in exactly), 0.0], more, strict=True)]
        return sum(exactly[self.plan.rounds.quorum :])

    def delivered(self, corner: Corner) -> float:
        """Part of the tokens that comes to be merged, on average."""
        found = self._available(corner)
        return sum(found) / len(found)

    def expected_round_s(self, corner: Corner, steps: int) -> float:
        """With the wait for the deadline where somebody does not deliver."""
        timed = timing.time_round(self.round(corner, steps))
        trained = timed.period_s - timed.exposed_s  # the deadline counts from the opening, scores and all
        waits = max(0.0, self.plan.rounds.deadline_s - trained)
        return timed.period_s + (1 - self.chance_of_all(corner)) * waits
