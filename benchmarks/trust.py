"""What witnesses, and words before bytes, cost a round: whole federations with and without, in turn."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import federation
from benchmarks.federation import Case, Outcome
from benchmarks.links import Link
from benchmarks.report import Report, Settings, spread
from tapestry.protocol.plan import Witness

NODES = 3
FAR = Link(rate_bits_s=100e6, delay_s=0.02)
"""Each way: 100 Mbit/s, and 40 ms there and back."""


def measure(settings: Settings) -> Report:
    report = Report(
        "trust",
        "What it costs not to have to believe",
        (
            "Members whose lines or machines differ much: a sealed round waits for the slowest word.",
            "More than three nodes; core, links and nodes share this machine.",
            "Every node keeps and verifies the ledger in all three: only whether rounds wait differs.",
        ),
    )
    repeat = 1 if settings.quick else (settings.repeat or 3)
    rounds, steps = (5, 8) if settings.quick else (10, 60)
    with tempfile.TemporaryDirectory(prefix="tapestry-trust-") as folder:
        for title, link in (("No link between", None), ("100 Mbit/s, 40 ms there and back", FAR)):
            plain = Case(nodes=NODES, rounds=rounds, steps=steps, link=link)
            cases = {
                "neither": plain,
                "witnesses": replace(plain, witness=Witness(quorum=NODES // 2 + 1)),
                "witnesses, and words first": replace(
                    plain, witness=Witness(quorum=NODES // 2 + 1), reveal_s=60.0
                ),
            }
            found: dict[str, list[Outcome]] = {name: [] for name in cases}
            for _ in range(repeat):
                for name, case in cases.items():
                    found[name].append(federation.run(case, Path(folder) / "run"))
            _table(report, title, found, steps)
    return report


def _table(report: Report, title: str, found: dict[str, list[Outcome]], steps: int) -> None:
    report.section(
        title,
        f"{NODES} nodes with the demo's model, one thread each, {steps} steps a round; every node repeats "
        "every merge. Goal for witnesses: 1.05 times as long.",
    )
    rows = []
    for name, outcomes in found.items():
        ratio = [a.round_s / b.round_s for a, b in zip(outcomes, found["neither"], strict=True)]
        rows.append(
            (
                name,
                f"{spread([each.round_s for each in outcomes], 3)} s",
                spread(ratio, 3),
                spread([each.utilisation for each in outcomes]),
            )
        )
    report.table(("with", "a round", "of neither", "training"), rows)
