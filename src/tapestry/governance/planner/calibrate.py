"""Constants from recorded rounds: what nodes wrote down of rounds that are over, beside the plan they were
of.

A constant that the rounds do not tell keeps what it was before. How many seconds a round takes beside what
the formulas say is fitted last, so that with one kind of rounds they come out as they were; rounds over
several links tell the round trips as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from tapestry.errors import InputError
from tapestry.governance.planner import exchange, timing
from tapestry.governance.planner.members import MembersFile
from tapestry.governance.planner.rates import DEFAULT, Rates
from tapestry.governance.planner.scenario import Scenario
from tapestry.governance.planner.spread import Spread
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Plan

SHORT_S: Final = 0.2
"""A part of a round that takes no longer tells its rate badly."""
ROUND_TRIPS: Final = (2.0, 40.0)
APART_S: Final = 0.02
"""Links whose round trips differ by more tell how many there are."""
FIELDS: Final = (
    "round", "tokens", "whole_s", "trained_s", "evaluated_s", "encoded_s", "uploaded_s", "downloaded_s",
    "replayed_s", "uploaded_bytes", "downloaded_bytes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Rounds of one run, of one plan, as some of its nodes wrote them down.

    Args:
        plan: they were of.
        layout: of its model.
        members: who took part, over which links.
        lines: by member, lines of its nodes' `state/times.jsonl`.
    """

    plan: Plan
    layout: Layout
    members: MembersFile
    lines: Mapping[str, Sequence[Mapping[str, Any]]]

    def scenario(self, rates: Rates) -> Scenario:
        return Scenario(plan=self.plan, layout=self.layout, members=self.members, rates=rates)

    @property
    def all_lines(self) -> list[Mapping[str, Any]]:
        return [line for lines in self.lines.values() for line in lines]

    def by_round(self) -> list[list[Mapping[str, Any]]]:
        """Lines of one round together, as far as several nodes are known."""
        found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for line in self.all_lines:
            found[int(line["round"])].append(line)
        return [found[number] for number in sorted(found)]


def checked(lines: Iterable[Mapping[str, Any]], what: str) -> list[Mapping[str, Any]]:
    """Lines that tell of a round. Raises `InputError`."""
    found = list(lines)
    for line in found:
        if not all(isinstance(line.get(name), int | float) for name in FIELDS):
            raise InputError(
                f"{what}: a line lacks one of the figures of a round", hint="take a node's own file"
            )
        if not float(line["whole_s"]) >= float(line["trained_s"]) > 0:
            raise InputError(f"{what}: round {line['round']} has trained longer than it lasted")
    return found


def calibrate(recorded: Sequence[Recorded], start: Rates = DEFAULT) -> Rates:
    """Rates as these rounds tell them. Raises `InputError` where there are none."""
    if not any(each.all_lines for each in recorded):
        raise InputError(
            "no recorded round to calibrate with", hint="a node writes them to state/times.jsonl"
        )
    rounds = sum(len(each.by_round()) for each in recorded)
    said = f"recorded, {rounds} rounds"
    rates = replace(start, paces=_paces(recorded), rounds=rounds)
    rates = rates.with_measured(_simple(recorded), said)
    rates = rates.with_measured(_messages(recorded, rates), said)
    return rates.with_measured(_remainders(recorded, rates), said)


def _paces(recorded: Sequence[Recorded]) -> tuple[tuple[str, Spread], ...]:
    """By member. In a round of several nodes the slowest sets the pace of all that are alike."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in recorded:
        work = each.scenario(DEFAULT).work.flops_per_token
        alike = len({member.tokens_per_s for member in each.members.members}) == 1
        slowest: dict[int, float] = defaultdict(float)
        for line in each.all_lines:
            number = int(line["round"])
            slowest[number] = max(slowest[number], float(line["trained_s"]))
        for name, own in each.lines.items():
            for line in own:
                took = slowest[int(line["round"])] if alike else float(line["trained_s"])
                found[name].append(float(line["tokens"]) * work / took)
    return tuple((name, Spread.measured(v, more_is_better=True)) for name, v in sorted(found.items()))


def _simple(recorded: Sequence[Recorded]) -> dict[str, Spread]:
    """Rates that one figure of a line tells, where it took long enough to tell."""
    encoded: list[float] = []
    merged: list[float] = []
    used: list[float] = []
    for each in recorded:
        scenario = each.scenario(DEFAULT)
        usual = scenario.round("middle", each.plan.inner.steps)
        links = {member.name: member for member in each.members.members}
        for name, lines in each.lines.items():
            for line in lines:
                if (took := float(line["encoded_s"])) > SHORT_S and usual.encode_s > SHORT_S:
                    encoded.append(scenario.load.dense / took)
                if (took := float(line["replayed_s"])) > SHORT_S and usual.merge_s > SHORT_S:
                    merged.append(usual.merge_s / took)
                if name in links:
                    link = links[name]
                    trip = link.round_trip_ms / 1000
                    for way, rate in (("uploaded", link.up_mbit), ("downloaded", link.down_mbit)):
                        took = float(line[f"{way}_s"]) - 2 * trip
                        ideal = float(line[f"{way}_bytes"]) * 8 / (rate * 1e6)
                        if ideal > max(SHORT_S, 2 * trip) and took > 0:
                            used.append(min(1.0, ideal / took))
    found = {}
    if encoded:
        found["encode_bytes_s"] = Spread.measured(encoded, more_is_better=True)
    if used:
        found["link_efficiency"] = Spread.measured(used, more_is_better=True)
    if merged:
        part = Spread.measured(merged, more_is_better=True)
        for name in ("merge_bytes_s", "decode_bytes_s"):
            before = getattr(DEFAULT, name).middle
            found[name] = Spread(before * part.best, before * part.middle, before * part.worst)
    return found


def _messages(recorded: Sequence[Recorded], rates: Rates) -> dict[str, Spread]:
    """All of HTTP but shards and manifests, against what `exchange` counts. Lines of older nodes say
    nothing."""
    parts: dict[str, list[float]] = {"sent": [], "received": []}
    for each in recorded:
        scenario = each.scenario(rates)
        for name, lines in each.lines.items():
            for line in lines:
                if not isinstance(line.get("sent_bytes"), int) or not isinstance(
                    line.get("received_bytes"), int
                ):
                    continue
                usual = exchange.moved(
                    scenario.load,
                    scenario.nodes,
                    repeats=each.plan.repeats_merges(name),
                    looks_back=each.plan.codec.error_feedback is not None,
                    train_s=float(line["trained_s"]),
                )
                for way, before in (("sent", usual.messages_sent), ("received", usual.messages_received)):
                    payload = getattr(usual, f"payload_{way}")
                    part = (float(line[f"{way}_bytes"]) - payload) / before
                    if part > 0:  # a shard that had come before is not fetched again
                        parts[way].append(part)
    return {
        f"{way}_messages": Spread.measured(found, more_is_better=False)
        for way, found in parts.items()
        if found
    }


def _remainders(recorded: Sequence[Recorded], rates: Rates) -> dict[str, Spread]:
    """What rounds took beyond the formulas, with and without counting round trips."""
    bare = replace(rates, fixed_s=Spread.exactly(0.0))
    points = [point for each in recorded for point in beyond(each, bare)]
    trips = [trip for trip, _ in points]
    found: dict[str, Spread] = {}
    slope = 0.0
    if max(trips) - min(trips) > APART_S:
        slope = _slope(points)
        before = rates.round_trips.middle
        low, high = ROUND_TRIPS
        slope = min(high, max(low, before + slope)) - before
        found["round_trips"] = Spread.exactly(before + slope)
    left = [max(0.0, more - slope * trip) for trip, more in points]
    found["fixed_s"] = Spread.measured(left, more_is_better=False)
    return found


def beyond(each: Recorded, rates: Rates) -> list[tuple[float, float]]:
    """Of each round: the longest round trip, and the seconds that it took beyond the formulas, given how long
    its slowest node trained."""
    found = []
    scenario = each.scenario(rates)
    usual = scenario.round("middle", each.plan.inner.steps)
    trip = max(party.round_trip_s for party in usual.parties)
    for lines in each.by_round():
        trained = max(float(line["trained_s"]) for line in lines)
        scored = max(float(line["evaluated_s"]) for line in lines)
        parties = [replace(p, step_s=trained / p.steps, evaluate_s=scored) for p in usual.parties]
        expected = timing.time_round(replace(usual, parties=parties)).period_s
        found.append((trip, median(float(line["whole_s"]) for line in lines) - expected))
    return found


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
