"""Faults of real processes and lines, one federation after the other, until there were `--faults` in all.

Each federation has its own part of the faults, and its totals are kept when it ends: the next call goes on
there. Exit code 1 where something was lost, counted twice, forked or differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import say

from tapestry.host import files
from tests.chaos import batch
from tests.chaos.report import report, total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="in all, with those of earlier calls (200)")
    parser.add_argument("--each", type=int, default=35, help="of one federation (35)")
    parser.add_argument("--nodes", type=int, default=8, help="of each federation, at least 3 (8)")
    parser.add_argument("--spared", type=int, default=2, help="nodes that no fault is aimed at (2)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of faults")
    parser.add_argument("--batches", type=int, help="end after so many federations; go on another time")
    parser.add_argument(
        "--out", type=Path, default=Path("chaos"), help="folder of the totals, and of a failure"
    )
    parser.add_argument("--report", type=Path, help="folder to write the report into")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its processes as Ctrl-C does
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"totals-{given.nodes}-nodes-seed-{given.seed}.json"
    known: list[batch.Result] = json.loads(path.read_text()) if path.exists() else []
    done = 0
    while (faults := total(known)) < given.faults and (given.batches is None or done < given.batches):
        calm = not known  # the first is the measure for those that follow
        count = 0 if calm else min(given.each, given.faults - faults)
        if not calm and given.faults - faults - count < 3:
            count = given.faults - faults
        known.append(_one(given, number=len(known), faults=count))
        files.write_atomic(path, json.dumps(known, indent=1).encode())
        done += 1
    made = report(known)
    sys.stdout.write(made.text())
    if given.report is not None:
        say(f"written: {made.write(given.report)}")
    found = [text for each in known for key in ("lost", "twice", "forks", "other") for text in each[key]]
    return 1 if found else 0


def _one(given: argparse.Namespace, *, number: int, faults: int) -> batch.Result:
    folder = Path(tempfile.mkdtemp(prefix=f"run-{number}-", dir=given.out.absolute()))
    say(f"federation {number}: {given.nodes} nodes, {faults} faults")
    found = batch.run(
        folder,
        nodes=given.nodes,
        faults=faults,
        seed=f"{given.seed}/{number}",
        spared=given.spared,
        calm_rounds=20,
        tell=say,
    )
    if not (found["lost"] or found["twice"] or found["forks"] or found["other"]):
        shutil.rmtree(folder)
    say(json.dumps(found))
    return found


if __name__ == "__main__":
    sys.exit(main())
