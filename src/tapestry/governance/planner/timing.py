"""How long a round takes: who is ready when, from the end of training to the next base. Pure arithmetic in
one case.

Shape legend: parties are groups of nodes alike; n nodes in all. Seconds, bytes, bytes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any, Final

from tapestry.governance.planner.load import Load


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """Nodes alike.

    Args:
        name: of the member, or the group.
        count: how many.
        step_s: one inner step.
        steps: of a round.
        evaluate_s: scoring the base, in the mean of the rounds.
        up: bytes a second to the core, what is left of the link's rate.
        down: the same back.
        round_trip_s: to the core.
        parallel: requests under way at once.
        repeats: whether it repeats merges.
        witness: whether its word counts.
        weight: of its time in the mean: accelerators.
    """

    name: str
    count: int
    step_s: float
    steps: int
    evaluate_s: float
    up: float
    down: float
    round_trip_s: float
    parallel: int
    repeats: bool
    witness: bool
    weight: float = 1.0

    @property
    def train_s(self) -> float:
        return self.step_s * self.steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """All that decides how long a round takes.

    Args:
        parties: who takes part.
        load: a contribution.
        core_up: of the core's link, bytes a second; and down.
        round_trips: in a row.
        request_s: of a request at a node, beside the link.
        fixed_s: of the round.
        encode_s: at a node, from the end of training to the delta.
        merge_s: of one merge, at the core and at a node that repeats it.
        keep_s: writing the inner state.
        sealed: whether words come before bytes.
        quorum: of witnesses; 0 waits for nobody.
        overlap_steps: taken while the exchange is under way.
        goes_on: whether delta and inner state are written beside the next step.
    """

    parties: Sequence[Party]
    load: Load
    core_up: float
    core_down: float
    round_trips: float
    request_s: float
    fixed_s: float
    encode_s: float
    merge_s: float
    keep_s: float
    sealed: bool
    quorum: int
    overlap_steps: int
    goes_on: bool

    @property
    def nodes(self) -> int:
        return sum(party.count for party in self.parties)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """Of a round: how long, how much of it the slowest node and the mean accelerator train, the exchange
    and what of it shows."""

    period_s: float
    train_s: float
    mean_train_s: float
    exchange_s: float
    exposed_s: float

    @property
    def utilisation(self) -> float:
        """Of all accelerators together: those of a fast node wait for the slow ones."""
        return self.mean_train_s / self.period_s


def transfer_s(size: float, requests: float, rate: float, party: Party, request_s: float) -> float:
    """So many bytes in so many requests: as long as the link takes, or as the requests wait for answers."""
    if not requests:
        return 0.0
    each = party.round_trip_s + request_s + size / requests / rate
    in_a_row = ceil(requests / party.parallel) * each
    return max(size / rate + party.round_trip_s, in_a_row)


def time_round(it: Round) -> Timed:
    """The slowest chain of a round in which everybody delivers."""
    own = it.load.delta + it.load.manifest
    before = [p.evaluate_s + p.train_s for p in it.parties]
    ended = [
        start + (0.0 if it.goes_on else it.encode_s) + p.round_trip_s
        for start, p in zip(before, it.parties, strict=True)
    ]
    if it.sealed:
        seal = max(at + p.round_trip_s for at, p in zip(ended, it.parties, strict=True))
        ended = [seal] * len(it.parties)
    accepted = [
        at + transfer_s(own, it.load.shards + 1, p.up, p, it.request_s) + it.round_trips / 2 * p.round_trip_s
        for at, p in zip(ended, it.parties, strict=True)
    ]
    all_in = max(*accepted, min(ended) + it.nodes * own / it.core_down)
    published = all_in + it.merge_s
    ready = _ready(it, accepted, published)
    end = _witnessed(it, ready)
    trained = max(before)
    exchange = max(0.0, end - trained)
    slowest = max(it.parties, key=lambda p: p.evaluate_s + p.train_s)
    kept = 0.0 if it.goes_on else it.keep_s
    exposed = max(0.0, exchange + it.fixed_s - it.overlap_steps * slowest.step_s) + kept
    return Timed(
        period_s=trained + exposed,
        train_s=slowest.train_s,
        mean_train_s=mean_train_s(it.parties),
        exchange_s=exchange + it.fixed_s,
        exposed_s=exposed,
    )


def mean_train_s(parties: Sequence[Party]) -> float:
    """Of the mean accelerator."""
    weights = [p.count * p.weight for p in parties]
    return sum(w * p.train_s for w, p in zip(weights, parties, strict=True)) / sum(weights)


def _ready(it: Round, accepted: Sequence[float], published: float) -> list[float]:
    """When each party has the next base. Others' contributions are fetched in the order in which they are
    accepted, each as soon as it is."""
    own = it.load.delta + it.load.manifest
    arriving = sorted(range(len(it.parties)), key=lambda i: accepted[i])
    repeating = sum(p.count for p in it.parties if p.repeats)
    fetching = it.nodes - repeating
    fragments = it.load.base_shards / it.load.shards
    merged = it.load.base / fragments + it.load.base_manifest
    core_end = min(accepted) + repeating * (it.nodes - 1) * own / it.core_up
    found = []
    for index, p in enumerate(it.parties):
        news = it.round_trips / 2 * p.round_trip_s
        if not p.repeats:
            took = transfer_s(merged, it.load.shards + 2, p.down, p, it.request_s)
            found.append(published + news + max(took, fetching * merged / it.core_up))
            continue
        at = 0.0
        for other in arriving:
            count = it.parties[other].count - (other == index)
            if count:
                at = max(at, accepted[other]) + _fetch_s(it, p, count)
        at = max(at, core_end) if it.nodes > 1 else at
        found.append(max(at, published) + news + it.merge_s)
    return found


def _fetch_s(it: Round, p: Party, count: int) -> float:
    """Of so many contributions: manifests one after the other, then shards."""
    own = it.load.delta + it.load.manifest
    shards = transfer_s(count * own, count * it.load.shards, p.down, p, it.request_s)
    return shards + count * (p.round_trip_s + it.request_s)


def _witnessed(it: Round, ready: Sequence[float]) -> float:
    """When the last may go on: it has the base, and enough have signed it."""
    end = max(ready)
    if not it.quorum:
        return end
    signed = sorted(
        (at + p.round_trip_s, p.count)
        for at, p in zip(ready, it.parties, strict=True)
        if p.witness and p.repeats
    )
    seen = 0
    for at, count in signed:
        seen += count
        if seen >= it.quorum:
            return max(end, at)
    return end


TERMS: Final = {
    "compute": "training itself",
    "slow members": "fast nodes wait for slow ones; inner.paces gives these fewer steps",
    "node up": "links from the nodes",
    "node down": "links to the nodes",
    "core up": "the link from the core",
    "core down": "the link to the core",
    "latency": "round trips, and requests one after the other",
    "merge": "merges at the core and at nodes",
    "encoding": "writing deltas and inner states",
    "evaluation": "scoring the base",
    "overhead": "what rounds take whatever they carry",
}
"""What a round may wait for."""


def without(it: Round, term: str) -> Round:
    """The same round if one thing took no time; `slow members`: if all trained as long as the mean."""
    if term == "slow members":
        mean = mean_train_s(it.parties)
        return replace(it, parties=[replace(p, step_s=mean / p.steps) for p in it.parties])
    parties: dict[str, Any] | None = {
        "compute": {"step_s": 1e-12},
        "node up": {"up": inf},
        "node down": {"down": inf},
        "latency": {"round_trip_s": 0.0, "parallel": 1 << 30},
        "evaluation": {"evaluate_s": 0.0},
    }.get(term)
    if parties is not None:
        return replace(it, parties=[replace(p, **parties) for p in it.parties])
    changed: dict[str, Any] = {
        "core up": {"core_up": inf},
        "core down": {"core_down": inf},
        "merge": {"merge_s": 0.0},
        "encoding": {"encode_s": 0.0, "keep_s": 0.0},
        "overhead": {"fixed_s": 0.0},
    }[term]
    return replace(it, **changed)


def savings(it: Round) -> dict[str, float]:
    """By term: seconds that a round would be shorter without it. Two things that wait for each other, or run
    side by side, save less alone than together."""
    period = time_round(it).period_s
    return {term: max(0.0, period - time_round(without(it, term)).period_s) for term in TERMS}


def slowest_party(it: Round) -> str:
    """Whose end of training plus own transfers comes last."""
    own = it.load.delta + it.load.manifest

    def chain(p: Party) -> float:
        up = transfer_s(own, it.load.shards + 1, p.up, p, it.request_s)
        down = _fetch_s(it, p, it.nodes - 1) if p.repeats and it.nodes > 1 else it.load.dense / p.down
        return p.evaluate_s + p.train_s + up + down

    return max(it.parties, key=chain).name


def needed_rate(it: Round, utilisation: float) -> float | None:
    """The rate, bytes a second each way at every node and n times that at the core, from which on nodes
    train that part of their time; None where no link is fast enough."""

    def at(rate: float) -> float:
        parties = [replace(p, up=max(p.up, rate), down=max(p.down, rate)) for p in it.parties]
        core = rate * it.nodes
        faster = replace(
            it, parties=parties, core_up=max(it.core_up, core), core_down=max(it.core_down, core)
        )
        return time_round(faster).utilisation

    low, high = 1e3, 1e15
    if at(high) < utilisation:
        return None
    for _ in range(50):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if at(middle) >= utilisation else (middle, high)
    return high
