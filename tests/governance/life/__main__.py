"""Walk through the life of consortia's decisions, a hundred thousand steps; then with each rule taken out.

Exit code 1 where a walk finds a rule of the charter broken, or does not notice that a rule was taken out.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.machine import say
from benchmarks.report import Report

from tests.governance.life import walk
from tests.governance.life.machine import Life


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.governance.life", description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000, help="in all (100,000)")
    parser.add_argument("--seed", type=int, default=1, help="other walks")
    parser.add_argument("--report", type=Path, help="folder to write the report into")
    given = parser.parse_args(argv)
    made = Report(
        what="life",
        title="Walks through the life of a consortium's decisions",
        not_shown=[
            "sequences that chance does not find in so many steps",
            "consortia of more than seven members",
            "signatures that are wrong: `make forged` tries those",
        ],
    )
    start = time.process_time()
    steps = walk.long(given.steps, seed=given.seed, tell=say)
    took = time.process_time() - start
    made.section(
        "What was done",
        f"{steps:,} steps, each followed by all checks: no rule of the charter was broken, and of every "
        "refusal the second verifier says that it would have refused too. "
        f"Seed {given.seed}, {took:.0f} s of processor time.",
    )
    made.table(["what came of steps", "times"], sorted(Life.seen.items()))
    made.section("With one rule taken out", "The same walks, of which one must notice it.")
    said = {name: walk.found(name) for name in walk.MUTANTS}
    made.table(["rule", "noticed by"], [[name, text or "NOBODY"] for name, text in said.items()])
    sys.stdout.write(made.text())
    if given.report is not None:
        say(f"written: {made.write(given.report)}")
    return 1 if None in said.values() else 0


if __name__ == "__main__":
    sys.exit(main())
