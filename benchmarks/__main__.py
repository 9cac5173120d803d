"""`python -m benchmarks [name...] [--quick] [--out DIR] [--note TEXT]`: run the named programs, or all.

A program is a module of this package with `measure(settings: Settings) -> Report`; add it to `PROGRAMS`.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.report import RESULTS, Settings

PROGRAMS = {
    "cli": "how long the command line takes to answer",
    "round": "a round without training, and the memory of every process",
    "merge": "arithmetic, replay engine with reading, hashing and writing, memory of the worker",
    "trainer": "the trainer against a plain torch loop",
}


def main(argv: list[str]) -> int:
    names = "\n".join(f"  {name:10} {what}" for name, what in PROGRAMS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure and write benchmarks/results/<what>_<hardware>_<date>.md.",
        epilog=f"programs:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="programs to run; all if none is named")
    parser.add_argument("--quick", action="store_true", help="small sizes; prints and writes no file")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--note", default="", help="a remark for the result file, e.g. what else was running")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.names) - PROGRAMS.keys())
    if unknown:
        parser.error(f"no program is named {', '.join(unknown)}")
    for name in arguments.names or PROGRAMS:
        report = import_module(f"benchmarks.{name}").measure(Settings(quick=arguments.quick))
        if arguments.note:
            report.note(arguments.note)
        print(report.text())
        if not arguments.quick:
            print(f"written: {report.write(arguments.out)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
