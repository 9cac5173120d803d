"""`python -m benchmarks [name...] [--quick] [--out DIR] [--note TEXT]`: run the named programs, or all.

A program is a module of this package with `measure(settings: Settings) -> Report`; add it to `PROGRAMS`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

from benchmarks.report import RESULTS, Settings

PROGRAMS = {
    "preferences": "a build learns preferences that the answer alone does not tell, over 3 seeds",
    "killed_build": "a build killed at ten random moments, against one that ran through",
    "build_overhead": "a build against calling trl directly on the same data",
    "cli": "how long the command line takes to answer",
    "round": "a round without training, and the memory of every process; or how other engines compare",
    "verify": "a ledger of 100,000 entries: export, verify, open the core that has it",
    "governance": "tally, account and entitlements of 50 members and 1,000 rounds",
    "ulp": "whether a lie of one bit in a merge is found, 1,000 times",
    "codec": "size, speed and memory of encoded deltas",
    "merge": "arithmetic, replay engine with reading, hashing and writing, memory of the worker",
    "trainer": "the trainer against a plain torch loop",
    "airlock": "what it costs a trainer to have no network",
    "island": "tokens a second by ranks, precision and memory options",
    "overlap": "what part of the time nodes train over slow links",
    "estimate": "the planner against measured rounds at 10, 100 and 1,000 Mbit/s (10 minutes)",
    "trust": "what witnesses, and words before bytes, cost a round",
    "leaks": "how fast what leaves is searched for canaries, and what a run's traffic holds",
    "leakage": "membership inference and canary exposure, of bases and updates (12 minutes of one thread)",
    "copies": "how much honest updates overlap, and which copies are found",
    "catalog": "hashing and counting text for a card, and decisions of the policy",
    "releases": "a release of 256 MiB: drafted, signed, published, fetched",
    "withdrawal": "what a withdrawn dataset touched, listed for a run of 1,000 rounds",
    "curation": "all steps of curation, what they leave out and what they find",
    "serving": "answers of the endpoint: first token, tokens a second, beside transformers' generate()",
    "transfer": "updates to the core and to other nodes, against plain HTTP",
    "large": "a whole round of a model of a billion parameters (44 GB of disk, 20 GB of memory)",
    "replay": "a merge of a large model from a cold disk, against a plain loop (44 GB of disk)",
}
WHEN_NAMED = {"replay", "large"}
"""Not among all, for what they take of the disk."""


def parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:10} {what}" for name, what in PROGRAMS.items())
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure and write benchmarks/results/<what>_<hardware>_<date>.md.",
        epilog=f"programs:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    without = ", ".join(sorted(WHEN_NAMED))
    made.add_argument(
        "names", nargs="*", metavar="name", help=f"programs to run; all but {without} if none is named"
    )
    made.add_argument("--quick", action="store_true", help="small sizes; prints and writes no file")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    made.add_argument("--note", default="", help="a remark for the result file, e.g. what else was running")
    made.add_argument(
        "--repeat",
        type=_count,
        help="repetitions of transfer, replay, overlap, verify, curation, build_overhead, killed_build",
    )
    made.add_argument("--mib", type=_count, help="transfer: size of an update (1024)")
    made.add_argument("--nodes", type=_count, default=2, help="transfer: how many (2)")
    made.add_argument("--parameters", type=_count, help="replay: of the model (10^9)")
    made.add_argument("--contributions", type=_count, help="replay: how many (8)")
    made.add_argument("--entries", type=_count, help="verify: of the ledger (100 000)")
    made.add_argument("--momentum", action="store_true", help="replay: read the momentum too, 4 GB more")
    made.add_argument("--database", choices=["postgresql"], help="round: compare it with SQLite")
    made.add_argument("--blobs", choices=["s3"], help="round: compare it with a folder")
    made.add_argument("--corpora", type=Path, help="copies, curation, leakage: a folder a language")
    return made


def _count(text: str) -> int:
    digits = text.replace("_", "")
    if not digits.isdecimal() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of at least 1")
    return int(digits)


def main(argv: list[str]) -> int:
    given = parser()
    arguments = given.parse_args(argv)
    unknown = sorted(set(arguments.names) - PROGRAMS.keys())
    if unknown:
        given.error(f"no program is named {', '.join(unknown)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clears away as after Ctrl-C
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    for name in arguments.names or [name for name in PROGRAMS if name not in WHEN_NAMED]:
        report = import_module(f"benchmarks.{name}").measure(settings)
        if arguments.note:
            report.note(arguments.note)
        print(report.text())
        if not arguments.quick:
            print(f"written: {report.write(arguments.out)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("stopped")
