"""How long the command line takes to answer: interpreter, imports and help texts, as whole processes."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.report import Report, Settings, seconds, spread

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    **{
        f"tapestry {' '.join(arguments)}": [sys.executable, "-m", "tapestry.cli.main", *arguments]
        for arguments in (
            ["--version"],
            ["--help"],
            ["run", "--help"],
            ["demo", "--help"],
            ["core", "status", "/nonexistent"],
        )
    },
}
GOALS = {"tapestry --help": "0.5"}


def measure(settings: Settings) -> Report:
    repeat = 2 if settings.quick else 11
    report = Report(
        what="cli",
        title="Answers of the command line",
        not_shown=["What a command does once it has started; the first call after an installation."],
    )
    rows = []
    for name, command in COMMANDS.items():
        times = seconds(
            lambda c=command: subprocess.run(c, capture_output=True, check=False), repeat=repeat + 1
        )
        rows.append([f"`{name}`", spread(times[1:], 3), GOALS.get(name, "")])
    report.section("Wall time of a whole process")
    report.table(["command", "seconds", "goal, at most"], rows)
    return report
