"""What the airlock costs the trainer: the same rounds without a network, and with one.

Two trainers of the same text and plan take turns, one working while the other waits. One is started as a node
starts it, in a network namespace of its own; the other is not.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.report import Report, Settings, spread
from benchmarks.trainer import CASES, QUICK, Case, ask, side, write_text

WAYS = {"no network": ("--isolate",), "with a network": ()}


def compare(case: Case) -> list[object]:
    """A row of the table."""
    tokens = case.steps * case.batch_sequences * case.sequence_length
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as open_sides:
        processes = {}
        for number, (way, more) in enumerate(WAYS.items()):
            root = Path(folder) / str(number)
            write_text(root / "text")
            through = ("--parent", str(os.getpid()), *more)
            processes[way] = open_sides.enter_context(side("trainer", root, case, through=through))
        for turn in range(case.repeat + 1):
            for way in WAYS if turn % 2 else reversed(WAYS):
                reply = ask(processes[way])
                if turn:  # the first is the warm-up
                    rates[way].append(tokens / reply["wall_s"])
        names = {way: _network(str(process.pid)) for way, process in processes.items()}
    own = _network("self")
    if names["no network"] == own or names["with a network"] != own:
        raise RuntimeError("this kernel gives the trainer no network namespace: there is nothing to compare")
    ratios = sorted(a / b for a, b in zip(*rates.values(), strict=True))
    row: list[object] = [case.name, *(spread(each, 0) for each in rates.values())]
    return [*row, f"{median(rates['no network']) / median(rates['with a network']):.3f}", spread(ratios, 3)]


def _network(process: str) -> str:
    """Name of the network namespace it is in."""
    return str(Path(f"/proc/{process}/ns/net").readlink())


def measure(settings: Settings) -> Report:
    report = Report(
        what="airlock",
        title="What it costs to train without a network",
        not_shown=(
            "accelerators",
            "islands of several hosts, which have a network",
            "the gate and the agent, which train nothing",
        ),
    )
    report.section(
        "Tokens per second, one thread",
        "Both take the same steps in many short turns. That the namespaces differ was seen in `/proc`. "
        "The ratio of the medians should be 1 within its noise.",
    )
    columns = ["model", *(f"{way}, tokens/s" for way in WAYS), "ratio of medians", "ratio, turn by turn"]
    report.table(columns, [compare(case) for case in (QUICK if settings.quick else CASES)])
    return report
