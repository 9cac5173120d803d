"""The planner against what rounds took: calibrated with some recorded rounds, it foretells others.

Two nodes with the demo's model behind links of 10, 100 and 1,000 Mbit/s, dense and sparse. The planner sees
the first half of the rounds over one of the links, dense and sparse; it foretells the second half of these,
and all rounds over the other links and of three nodes. Bytes are all of HTTP, as each node counts them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import federation
from benchmarks.federation import Case
from benchmarks.links import Link
from benchmarks.report import Report, Settings
from tapestry.cli.demo import defaults
from tapestry.governance.planner import formulas
from tapestry.governance.planner.calibrate import Recorded, beyond, calibrate, checked
from tapestry.governance.planner.members import Member, MembersFile
from tapestry.governance.planner.rates import Rates
from tapestry.governance.planner.timing import savings, time_round
from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Merge, Witness
from tapestry.training.planned import planned_layout

DELAY_S = 0.02
"""Each way, so a round trip is 40 ms."""
MBIT = (10, 100, 1000)
SEEN_MBIT = 100
"""The link whose rounds the planner sees."""
CODECS: tuple[tuple[str, AlgorithmName], ...] = (("dense", "diloco"), ("sparse", "sparseloco"))
TIME_WITHIN, BYTES_WITHIN = 0.20, 0.05


@dataclass(frozen=True, kw_only=True)
class Run:
    """Rounds of one federation, and whether the planner sees the first half of them."""

    name: str
    recorded: Recorded
    seen: bool

    def part(self, *, first: bool) -> Recorded:
        """Half of the rounds; all of them are to be foretold where none was seen."""
        if not self.seen:
            return self.recorded
        numbers = sorted({int(line["round"]) for line in self.recorded.all_lines})
        half = set(numbers[: len(numbers) // 2] if first else numbers[len(numbers) // 2 :])
        lines = {
            name: [line for line in own if int(line["round"]) in half]
            for name, own in self.recorded.lines.items()
        }
        return Recorded(
            plan=self.recorded.plan, layout=self.recorded.layout, members=self.recorded.members, lines=lines
        )


def measure(settings: Settings) -> Report:
    report = Report(
        "estimate",
        "The planner against measured rounds",
        (
            "Models of other sizes, accelerators, and more than three nodes: core, links and nodes share "
            "this machine, and its processor is what trains.",
            "TCP and TLS around HTTP. Members that fail to deliver. Whole runs.",
            "Loss: the scaling law is quoted, not tested.",
        ),
    )
    with tempfile.TemporaryDirectory(prefix="tapestry-estimate-") as folder:
        runs = [_run(*each, Path(folder) / "run", settings) for each in _cases(settings)]
    rates = calibrate([run.part(first=True) for run in runs if run.seen])
    _compare(report, runs, rates)
    _constants(report, rates)
    return report


def _cases(settings: Settings) -> list[tuple[str, AlgorithmName, int, int]]:
    """What, by which algorithm, how many nodes, and Mbit/s. Those that are seen stand first."""
    if settings.quick:
        return [(what, name, 2, mbit) for mbit in (SEEN_MBIT, 10) for what, name in CODECS]
    speeds = sorted(MBIT, key=lambda mbit: mbit != SEEN_MBIT)
    found = [(what, name, 2, mbit) for mbit in speeds for what, name in CODECS]
    return [*found, *((what, name, 3, SEEN_MBIT) for what, name in CODECS)]


def _run(what: str, name: AlgorithmName, nodes: int, mbit: int, root: Path, settings: Settings) -> Run:
    tables = ALGORITHMS[name].tables()
    rounds, steps = (10, 10) if settings.quick else (14, 30)
    case = Case(
        nodes=nodes,
        rounds=rounds,
        steps=steps,
        link=Link(rate_bits_s=mbit * 1e6, delay_s=DELAY_S),
        codec=Codec(**tables["codec"]),
        merge=Merge(**tables["merge"]),
        witness=Witness(quorum=nodes // 2 + 1),
        reveal_s=600.0,
    )
    outcome = federation.run(case, root)
    members = tuple(
        Member(
            name=f"node-{number}",
            tokens_per_s=1.0,
            up_mbit=float(mbit),
            down_mbit=float(mbit),
            round_trip_ms=2000 * DELAY_S,
            available=1.0,
        )
        for number in range(1, nodes + 1)
    )
    lines: Mapping[str, Sequence[Mapping[str, Any]]] = {
        member.name: checked(own, member.name) for member, own in zip(members, outcome.rounds, strict=True)
    }
    recorded = Recorded(
        plan=outcome.plan,
        layout=planned_layout(defaults.model_config(), "byte", defaults.SHARD_BYTES),
        members=MembersFile(format="tapestry.members-file", version=1, members=members),
        lines=lines,
    )
    return Run(
        name=f"{what}, {mbit} Mbit/s, {nodes} nodes", recorded=recorded, seen=mbit == SEEN_MBIT and nodes == 2
    )


def _compare(report: Report, runs: Sequence[Run], rates: Rates) -> None:
    report.section(
        "Foretold against measured",
        f"{2000 * DELAY_S:.0f} ms there and back. Of the runs that are marked, the first half of the rounds "
        "calibrated the planner, and the second half is foretold. Goals: time within "
        f"{TIME_WITHIN:.0%}, bytes within {BYTES_WITHIN:.0%}. *With its training*: the ratio where the "
        "seconds that a round trained are known, so of the rest alone; it tells the planner's errors from "
        "a processor that others use as well. Three nodes train more slowly than two on the same two "
        "cores, so their time is not judged.",
    )
    rows, held = [], [True, True]
    for run in runs:
        later = run.part(first=False)
        scenario = later.scenario(_paced(rates, later))
        it = scenario.round("middle", later.plan.inner.steps)
        lines = later.all_lines
        period, took = time_round(it).period_s, mean(float(line["whole_s"]) for line in lines)
        moved = scenario.moved(later.members.members[0], "middle", later.plan.inner.steps)
        sent, received = (mean(float(line[f"{way}_bytes"]) for line in lines) for way in ("sent", "received"))
        ratios = (period / took, moved.sent / sent, moved.received / received)
        held[0] &= abs(ratios[0] - 1) <= TIME_WITHIN or scenario.nodes > 2
        held[1] &= all(abs(each - 1) <= BYTES_WITHIN for each in ratios[1:])
        rows.append(
            (
                run.name + (" *" if run.seen else ""),
                f"{period:.2f} s",
                f"{took:.2f} s",
                f"{ratios[0]:.2f}",
                f"{1 - mean(left for _, left in beyond(later, rates)) / took:.2f}",
                f"{sent / 1000:.1f} kB",
                f"{ratios[1]:.3f}",
                f"{received / 1000:.1f} kB",
                f"{ratios[2]:.3f}",
                max(saved := savings(it), key=lambda term: saved[term]),
            )
        )
    report.table(
        (
            "rounds",
            "foretold",
            "measured",
            "ratio",
            "with its training",
            "sent",
            "ratio",
            "received",
            "ratio",
            "limit",
        ),
        rows,
    )
    said = ["held" if each else "**not held**" for each in held]
    report.paragraph(f"Time within {TIME_WITHIN:.0%}: {said[0]}. Bytes within {BYTES_WITHIN:.0%}: {said[1]}.")


def _paced(rates: Rates, run: Recorded) -> Rates:
    """Nodes alike: one that was not seen has the pace of those that were."""
    paces = dict(rates.paces)
    known = next(iter(paces.values()))
    return replace(rates, paces=tuple((m.name, paces.get(m.name, known)) for m in run.members.members))


def _constants(report: Report, rates: Rates) -> None:
    report.section("What calibration found")
    report.table(
        ("constant", "best", "middle", "worst", "source"),
        [
            (name, f"{value.best:.4g}", f"{value.middle:.4g}", f"{value.worst:.4g}", source)
            for name, value, source in formulas.constants(rates)
        ],
    )
