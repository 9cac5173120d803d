"""How long the command line takes to answer.

    python -m benchmarks.cli [--repeats N]

Prints a table and writes benchmarks/results/cli_<hardware>_<date>.md. It shows the start of the
interpreter and the imports of each command; it does not show the work of the command itself.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
LIMIT_S = 0.5
"""What `tapestry --help` may take."""

COMMANDS: dict[str, list[str]] = {
    "python -c pass": [sys.executable, "-c", "pass"],
    **{
        f"tapestry {' '.join(arguments)}": [sys.executable, "-m", "tapestry.cli.main", *arguments]
        for arguments in (
            ["--version"],
            ["--help"],
            ["run", "--help"],
            ["demo", "--help"],
            ["core", "status", "/nonexistent"],
            ["node", "status", "/nonexistent"],
        )
    },
}


def measure(command: list[str], repeats: int) -> list[float]:
    """Wall seconds of each of `repeats` calls, after one that warms the caches."""
    times = []
    for i in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        if i:
            times.append(time.perf_counter() - began)
    return times


def hardware() -> str:
    """Name of the processor and number of cores, fit for a file name."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.partition(":")[2]
            break
    word = "-".join("".join(c if c.isalnum() else " " for c in model).split())
    return f"{word}-{os.cpu_count()}-cores".lower()


def table(repeats: int) -> str:
    """Markdown."""
    lines = ["| command | median s | slowest s |", "|---|---:|---:|"]
    for name, command in COMMANDS.items():
        times = measure(command, repeats)
        lines.append(f"| `{name}` | {statistics.median(times):.3f} | {max(times):.3f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args(argv).repeats
    made = table(repeats)
    print(made)
    today = datetime.date.today().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"cli_{hardware()}_{today}.md"
    path.write_text(
        f"# Answers of the command line, {today}\n\n{platform.platform()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores; {repeats} calls each after one that warms the caches.\n\n{made}\n\n"
        "Wall time of a whole process. What a command does once it has started is not in it.\n"
    )
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
