"""What part of the time nodes train over slow links, with every merge repeated at every node.

The same model and text behind the same link: `diloco` waits for each merge, `streaming` trains on. The link
of the second table is the one over which synchronous data parallel would train a twentieth of its time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks import federation
from benchmarks.federation import Case, Outcome
from benchmarks.links import Link
from benchmarks.report import Report, Settings, spread
from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Merge, Streaming

SLOW = Link(rate_bits_s=10e6, delay_s=0.05)
"""Each way, so a round trip is 100 ms."""
BUSY = 0.05
"""Part of its time that data parallel would train at the link of the second table."""


def measure(settings: Settings) -> Report:
    report = Report(
        "overlap",
        "Training while updates travel",
        (
            "More than two nodes, other models, real networks: core, links and nodes share this machine.",
            "Merges of large models, whose replay takes longer than a few steps.",
        ),
    )
    repeat = 1 if settings.quick else (settings.repeat or 3)
    with tempfile.TemporaryDirectory(prefix="tapestry-overlap-") as folder:
        root = Path(folder)
        free = _links(report, root, settings, repeat)
        _against_data_parallel(report, root, settings, repeat, free)
        _cost(report, root, settings, repeat)
    return report


def _case(name: AlgorithmName, settings: Settings, link: Link | None) -> Case:
    """Rounds of 80 steps of the demo's model; in halves, two rounds of 40, half of them ahead:
    an exchange takes about a second here, and a step some 50 ms."""
    tables = ALGORITHMS[name].tables()
    rounds, steps = (5, 16) if settings.quick else (7, 80)
    streaming = Streaming(**tables["streaming"])
    if streaming.goes_on:
        streaming = streaming.model_copy(update={"overlap_steps": steps // 4})
    return Case(
        nodes=2,
        rounds=rounds * streaming.fragments,
        steps=steps // streaming.fragments,
        link=link,
        codec=Codec(**tables["codec"]),
        merge=Merge(**tables["merge"]),
        streaming=streaming,
    )


def _repeated(cases: Mapping[str, Case], root: Path, repeat: int) -> dict[str, list[Outcome]]:
    """Each as often, in turn."""
    found: dict[str, list[Outcome]] = {name: [] for name in cases}
    for _ in range(repeat):
        for name, case in cases.items():
            found[name].append(federation.run(case, root / "run"))
    return found


def _links(report: Report, root: Path, settings: Settings, repeat: int) -> Mapping[str, list[Outcome]]:
    cases = {
        f"{name}, {where}": _case(name, settings, link)
        for name in ("diloco", "streaming")
        for where, link in (("no limit", None), ("10 Mbit/s, 100 ms", SLOW))
    }
    found = _repeated(cases, root, repeat)
    report.section(
        "10 Mbit/s and 100 ms against no limit",
        "Two nodes with the demo's model, one thread each; every merge is repeated at both. Goal: no more "
        "than 1.05 times as long over the link.",
    )
    rows = []
    for name, outcomes in found.items():
        free = found[name.split(",")[0] + ", no limit"]
        times = [a.round_s * a.plan.streaming.fragments for a in outcomes]
        slower = [a.round_s / b.round_s for a, b in zip(outcomes, free, strict=True)]
        rows.append(
            (
                name,
                f"{spread(times)} s",
                spread(slower),
                spread([each.utilisation for each in outcomes]),
                f"{outcomes[0].moved * outcomes[0].plan.streaming.fragments / 1e6:.2f} MB",
            )
        )
    report.table(
        ("algorithm and link", "80 steps and their merges", "of no limit", "training", "moved"), rows
    )
    return found


def _against_data_parallel(
    report: Report, root: Path, settings: Settings, repeat: int, free: Mapping[str, list[Outcome]]
) -> None:
    first = free["streaming, no limit"][0]
    nodes, parameters, step_s = 2, first.plan.parameters, first.step_s
    ring = 2 * (nodes - 1) / nodes * 4 * parameters
    rate = 8 * ring / (step_s * (1 / BUSY - 1))
    cases = {name: _case(name, settings, Link(rate_bits_s=rate)) for name in ("diloco", "streaming")}
    found = _repeated(cases, root, repeat)
    report.section(
        f"The link over which data parallel trains {BUSY:.0%} of its time",
        f"Data parallel sends {ring / 1e6:.2f} MB a step and node (ring all-reduce of {parameters:,} fp32 "
        f"gradients), a step takes {step_s * 1000:.0f} ms: at {rate / 1e6:.2f} Mbit/s it trains {BUSY:.0%} "
        "of the time (computed). Goal for streaming: 95 %.",
    )
    rows = [
        (name, spread([each.utilisation for each in outcomes]), f"{spread([o.round_s for o in outcomes])} s")
        for name, outcomes in found.items()
    ]
    report.table(("algorithm", "training", "a round"), rows)


def _cost(report: Report, root: Path, settings: Settings, repeat: int) -> None:
    """One node alone on two cores: what of its tokens a second agent, codec and merges take."""
    cases = {name: _lone(name, settings) for name in ("diloco", "streaming")}
    found = _repeated(cases, root, repeat)
    report.section(
        "What it costs one node",
        "A node alone, one thread, a model of 3.4 M parameters: tokens a second over whole rounds against "
        "those in the training loop of the same rounds. Goal: 0.97.",
    )
    rows = []
    for name, outcomes in found.items():
        encoding = [1000 * each.sum("encoded_s") / sum(map(len, each.rounds)) for each in outcomes]
        inside = [each.sum("tokens") / each.sum("trained_s") for each in outcomes]
        whole = [each.tokens_s for each in outcomes]
        rows.append(
            (
                name,
                spread(inside, 0),
                spread(whole, 0),
                spread([a / b for a, b in zip(whole, inside, strict=True)], 3),
                f"{spread(encoding, 0)} ms",
            )
        )
    report.table(("algorithm", "in the loop", "over all", "ratio", "encoding a round"), rows)


def _lone(name: AlgorithmName, settings: Settings) -> Case:
    tables = ALGORITHMS[name].tables()
    streaming = Streaming(**tables["streaming"])
    rounds, steps = (5, 16) if settings.quick else (7, 40)
    return Case(
        nodes=1,
        rounds=rounds * streaming.fragments,
        steps=steps // streaming.fragments,
        model={"hidden_size": 256, "intermediate_size": 680, "num_hidden_layers": 4},
        codec=Codec(**tables["codec"]),
        merge=Merge(**tables["merge"]),
        streaming=streaming,
    )
