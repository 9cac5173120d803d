"""From trials to figures: the winner of each method, differences by pairs of seeds, intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Final

from benchmarks.parity.methods import METHODS, SYNCHRONOUS
from benchmarks.parity.trials import TUNING_SEED, Record, mean, rules

T_975: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""Student's t at 0.975, by degrees of freedom from 1 on."""


@dataclass(frozen=True)
class Interval:
    """A mean and, of two values or more, half the width of its 95 % interval."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        if len(values) < 2:
            return cls(fmean(values), None)
        t = T_975[min(len(values) - 1, len(T_975)) - 1]
        return cls(fmean(values), t * stdev(values) / sqrt(len(values)))

    def text(self, digits: int, *, sign: bool = False) -> str:
        """As `2.31 ± 0.02`."""
        shown = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return shown if self.half is None else f"{shown} ± {self.half:.{digits}f}"

    def as_json(self) -> dict[str, float | None]:
        return {"mean": self.mean, "half_95": self.half}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method as it compares.

    Args:
        tuning: the trials that chose its knobs.
        finals: by seed, at full length with the chosen knobs.
        difference: of bits per byte to synchronous data parallel, seed by seed; None where no seed is shared.
        percent: the same in percent of data parallel's.
        fewer: how many times fewer bytes a member sends and receives.
        edge: whether the chosen learning rate is the smallest or largest of three or more.
    """

    method: str
    tuning: list[Record]
    finals: dict[int, Record]
    difference: Interval | None
    percent: Interval | None
    fewer: float | None
    edge: bool

    @property
    def winner(self) -> Record:
        return self.finals[min(self.finals)]

    @property
    def bits_per_byte(self) -> Interval:
        return Interval.of([mean(record) for record in self.finals.values()])

    @property
    def on_all(self) -> float | None:
        """Of `alone`: its models on everybody's text."""
        found = [record["on_all"] for record in self.finals.values()]
        return None if None in found else fmean(found)

    def language(self, member: str) -> Interval:
        """Bits per byte on one member's text."""
        return Interval.of([record["bits_per_byte"][member] for record in self.finals.values()])

    @property
    def total(self) -> float:
        """Bytes a member sends and receives, the merge repeated at the member."""
        return _total(self.finals)

    @property
    def fetching(self) -> float:
        """Bytes a member sends and receives, each base fetched."""
        return fmean(record["sent"] + record["fetched"] for record in self.finals.values())


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All trials of one setting on one set of texts."""

    setting: str
    members: list[str]
    setup: str
    records: list[Record]
    rows: list[Row]

    def as_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "members": self.members,
            "setup": self.setup,
            "methods": [_row_json(row, self.members) for row in self.rows],
        }

    def doubts(self) -> list[str]:
        """What speaks against comparing the rows as they are."""
        found = []
        counts = {row.method: len(row.tuning) for row in self.rows}
        wanted = counts.get(SYNCHRONOUS)
        if wanted is None:
            found.append(f"no finished trials of {SYNCHRONOUS}: nothing to compare with")
        found += [
            f"{name} had {count} trials, {SYNCHRONOUS} {wanted}"
            for name, count in counts.items()
            if wanted is not None and count != wanted
        ]
        found += [
            f"{row.method}: the best learning rate, {row.winner['knobs']['learning_rate']:g}, "
            "is at the edge of those tried"
            for row in self.rows
            if row.edge
        ]
        if len({tuple(row.finals) for row in self.rows}) > 1:
            found.append("not every method has the same seeds; differences are over those that are shared")
        bases: dict[int, set[str]] = defaultdict(set)
        for record in self.records:
            bases[record["seed"]].add(record["initial"])
        found += [
            f"seed {seed}: trials began from different artifacts" for seed in bases if len(bases[seed]) > 1
        ]
        return found


def compare(records: Sequence[Record]) -> list[Comparison]:
    """A comparison for each setting, set of members and setup there is; methods in their own order."""
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        method = METHODS.get(record["method"])
        if method is not None and record["rules"] == rules(method):
            groups[record["setting"], *record["members"], record["setup"]].append(record)
    return [_comparison(group) for _, group in sorted(groups.items())]


def _comparison(records: list[Record]) -> Comparison:
    of_method = {name: [r for r in records if r["method"] == name] for name in METHODS}
    chosen = {name: _choose(found) for name, found in of_method.items() if found}
    against = chosen.get(SYNCHRONOUS, ([], {}))[1]
    rows = [_row(name, tuning, finals, against) for name, (tuning, finals) in chosen.items() if finals]
    first = records[0]
    return Comparison(
        setting=first["setting"],
        members=first["members"],
        setup=first["setup"],
        records=records,
        rows=rows,
    )


def _choose(records: list[Record]) -> tuple[list[Record], dict[int, Record]]:
    """The trials that choose a method's knobs, and those at full length with the knobs chosen, by seed."""
    tried = [record for record in records if record["seed"] == TUNING_SEED]
    if not tried:
        return [], {}
    shares = Counter(record["share"] for record in tried)
    share = max(shares, key=lambda each: (shares[each], each))
    tuning = [record for record in tried if record["share"] == share]
    best = min(tuning, key=mean)
    finals = {
        record["seed"]: record
        for record in records
        if record["share"] == 1.0 and record["knobs"] == best["knobs"] and not record["diverged"]
    }
    return tuning, dict(sorted(finals.items()))


def _row(name: str, tuning: list[Record], finals: dict[int, Record], against: dict[int, Record]) -> Row:
    pairs = [(mean(finals[seed]), mean(against[seed])) for seed in finals if seed in against]
    if name == SYNCHRONOUS:
        pairs = []
    rates = {record["knobs"]["learning_rate"] for record in tuning}
    chosen = next(iter(finals.values()))["knobs"]["learning_rate"]
    return Row(
        method=name,
        tuning=tuning,
        finals=finals,
        difference=Interval.of([a - b for a, b in pairs]) if pairs else None,
        percent=Interval.of([100 * (a - b) / b for a, b in pairs]) if pairs else None,
        fewer=_total(against) / _total(finals) if pairs else None,
        edge=len(rates) > 2 and chosen in (min(rates), max(rates)),
    )


def _total(finals: dict[int, Record]) -> float:
    """Bytes a member sends and receives, in the mean over seeds."""
    return fmean(record["sent"] + record["received"] for record in finals.values())


def _row_json(row: Row, members: list[str]) -> dict[str, Any]:
    return {
        "method": row.method,
        "knobs": row.winner["knobs"],
        "trials": len(row.tuning),
        "seeds": sorted(row.finals),
        "bits_per_byte": row.bits_per_byte.as_json(),
        "languages": {member: row.language(member).as_json() for member in members},
        "on_all": row.on_all,
        "difference": row.difference and row.difference.as_json(),
        "percent": row.percent and row.percent.as_json(),
        "bytes": row.total,
        "bytes_fetching": row.fetching,
        "times_fewer_bytes": row.fewer,
        "rounds": row.winner["rounds"],
        "steps": row.winner["steps"],
        "tokens": row.winner["tokens"],
    }
