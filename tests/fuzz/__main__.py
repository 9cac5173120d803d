"""Fuzz every parser of foreign bytes, or some of them. Exit code 1 where something was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz import runner
from tests.fuzz.runner import Totals
from tests.fuzz.target import Target


def table(totals: Totals) -> str:
    """All that was run, one line a target."""
    lines = [
        f"{'target':17}{'inputs':>11}{'accepted':>10}{'refused':>10}{'found':>7}"
        f"{'a second':>10}{'slowest':>10}{'memory':>9}"
    ]
    for name, each in sorted(totals.counts.items()):
        rate = each.inputs / each.seconds if each.seconds else 0.0
        lines.append(
            f"{name:17}{each.inputs:11,}{each.accepted:10,}{sum(each.refused.values()):10,}"
            f"{sum(each.found.values()):7}{rate:10,.0f}{each.slowest_s * 1000:7.0f} ms"
            f"{each.most_bytes / 2**20:5.0f} MiB"
        )
    every = totals.counts.values()
    lines.append(f"{'all':17}{sum(e.inputs for e in every):11,}{sum(e.accepted for e in every):10,}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", help="one of them; all if left out")
    parser.add_argument("--count", type=int, help="inputs of each target")
    parser.add_argument("--minutes", type=float, help="for all targets together (5 if no count is given)")
    parser.add_argument("--seed", type=int, default=1, help="other inputs; each seed goes on where it ended")
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="folder of the totals")
    parser.add_argument("--corpus", type=Path, default=runner.CORPUS, help="where found cases are kept")
    parser.add_argument(
        "--planted", action="store_true", help="targets with planted faults, to see them found"
    )
    given = parser.parse_args()
    if given.planted:
        from tests.fuzz.planted import PLANTED as known
    else:
        from tests.fuzz.targets import ALL as known
    names: list[str] = given.target or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no target {sorted(unknown)[0]}; there are {', '.join(known)}")
    chosen: list[Target] = [known[name] for name in names]
    minutes = given.minutes if given.minutes is not None or given.count is not None else 5.0
    found = runner.run(
        chosen, seed=given.seed, out=given.out, count=given.count, minutes=minutes, corpus=given.corpus
    )
    sys.stdout.write(table(Totals(given.out)) + f"\n{found} findings\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
