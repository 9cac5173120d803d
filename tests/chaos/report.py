"""The totals of many federations as a dated report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.report import Report

from tests.chaos.batch import Result

GOAL = 0.95
"""Tokens a CPU second of these nodes, against a run without faults."""


def total(known: Sequence[Result]) -> int:
    """Faults so far."""
    return sum(sum(each["faults"].values()) for each in known)


def report(known: Sequence[Result]) -> Report:
    """Args: known: the first one without faults."""
    made = Report(
        what="chaos",
        title="Faults of real processes and lines",
        not_shown=[
            "training: trainers are stand-ins that hand over constants; kills of real ones are in "
            "`make test-long`",
            "power cuts and disks that lie: what a killed process has written is still in the page cache",
            "several machines: all lines are on the loopback, their faults made by a proxy",
            "a bound on faults of kinds that are not in the table, or on other timings than these",
        ],
    )
    faults = total(known)
    hits: Counter[str] = Counter()
    for each in known:
        hits.update(each["faults"])
    made.section(
        "What was done",
        f"{len(known)} federations of {known[0]['nodes']} nodes (an agent, a gate and a replay worker each) "
        f"and a core; {faults} faults in {sum(1 for each in known if each['faults'])} of them. "
        f"{sum(each['restarts'] for each in known)} processes were started again.",
    )
    made.table(["fault", "times"], sorted(hits.items()))
    made.section("What was found")
    counts = {key: sum(len(each[key]) for each in known) for key in ("lost", "twice", "forks", "other")}
    made.table(
        ["", "looked at", "found"],
        [
            ["contributions with a receipt, lost", sum(e["receipts"] for e in known), counts["lost"]],
            ["contributions counted twice", sum(e["contributions"] for e in known), counts["twice"]],
            ["forks", sum(e["entries"] for e in known), counts["forks"]],
            [
                "merges that differ when repeated, or at a node",
                sum(e["merges"] for e in known),
                counts["other"],
            ],
        ],
    )
    if faults and not any(counts.values()):
        made.paragraph(
            f"None in {faults} faults bounds the chance that a fault of such a mix does one of these at "
            f"{300 / faults:.2g} % (95 %, 3/N)."
        )
    _efficiency(made, known)
    return made


def _efficiency(made: Report, known: Sequence[Result]) -> None:
    """Of nodes that no fault was aimed at: what the others' faults cost them."""
    made.section(
        "Nodes that no fault was aimed at",
        "Processor time of a node's agent, gate and replay worker, from the first merge to the last fault; "
        "not the trainers', which are stand-ins. A trained round that is merged nowhere would be lost work.",
    )
    rows, costs = [], []
    for name, chosen in (("without faults", known[:1]), ("with faults", known[1:])):
        spared = [each["spared"] for each in chosen]
        if not (rounds := sum(s["rounds"] * s["nodes"] for s in spared)):
            continue
        cpu, wall = (sum(s[key] for s in spared) for key in ("cpu_s", "wall_s"))
        trained, merged = (sum(s[key] for s in spared) for key in ("trained", "merged"))
        costs.append(cpu / rounds)
        all_rounds = sum(s["rounds"] for s in spared)
        rows.append(
            [
                *(name, all_rounds, f"{wall / all_rounds:.2f}", f"{cpu / rounds:.3f}"),
                f"{merged} of {trained} ({merged / trained:.1%})",
            ]
        )
    made.table(["", "rounds", "wall s a round", "CPU s a round", "trained rounds merged"], rows)
    if len(costs) == 2:
        calm, wild = costs
        enough = max(0.0, (GOAL * wild - calm) / (1 - GOAL))
        made.paragraph(
            f"Tokens a CPU second with faults against without: {calm / wild:.0%} where training takes "
            f"none, since rounds last longer and waiting is not free; {GOAL:.0%} or more where a round's "
            f"training takes {enough:.1f} CPU seconds or more."
        )
