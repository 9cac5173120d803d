"""python -m tests.sim: run seeds, replay one, or look for a bug that was put in."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tapestry import __version__
from tests.sim import campaign
from tests.sim.bugs import BUGS, Bug
from tests.sim.split import Split, SplitOfEight, drawn
from tests.sim.world import Failed, World


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    if given.list_bugs:
        for bug in BUGS.values():
            print(f"{bug.name:28} {bug.breaks}")
        return 0
    bug = BUGS[given.bug] if given.bug else None
    if given.replay is not None:
        return _replay(SplitOfEight(given.replay) if given.split else world_of(given.replay, bug))
    if bug is not None:
        return _search(bug, given.start or 0, given.seeds)
    draw, label = (SplitOfEight, f"{given.label}-split") if given.split else (drawn, given.label)
    try:
        totals = campaign.run(
            given.out, seeds=given.seeds, first=given.start, minutes=given.minutes, label=label, draw=draw
        )
    except KeyboardInterrupt:
        print("stopped; call it again, without --from, to go on", file=sys.stderr)
        return 130
    print(totals.line())
    return 1 if totals.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many more")
    parser.add_argument("--from", dest="start", type=int, help="begin here with fresh totals; else go on")
    parser.add_argument("--minutes", type=float, help="begin no seed after so many")
    parser.add_argument("--out", type=Path, default=Path("sim-results"), help="folder of totals and failures")
    parser.add_argument("--label", default=__version__, help="totals are kept apart for each")
    parser.add_argument(
        "--split", action="store_true", help="a core with two histories and two of eight members"
    )
    parser.add_argument("--bug", choices=sorted(BUGS), help="look for this bug instead")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run one seed and print all that happens")
    parser.add_argument("--list-bugs", action="store_true")
    return parser


def world_of(seed: int, bug: Bug | None, *, mended: bool = False) -> World:
    """What a seed, with or without a bug, always gives; `mended`: with what the bug needs, without it."""
    if bug is None:
        return drawn(seed)
    put_in = None if mended else bug
    if bug.split:
        return (SplitOfEight if bug.eight else Split)(seed, bug.faults, bug=put_in)
    return World(seed, bug.faults, hostile=bug.hostile, lie=bug.lie, loses=bug.loses, bug=put_in)


def _replay(world: World) -> int:
    trace = world.scheduler.trace
    add = trace.add

    def told(line: str) -> None:
        print(line)
        add(line)

    trace.add = told  # type: ignore[method-assign]
    print(world.faults, world.plan.rounds, sep="\n", file=sys.stderr)
    try:
        report = world.run()
    except Failed as failed:
        print(f"seed {world.seed} FAILED: {type(failed.error).__name__}: {failed.error}")
        return 1
    print(report)
    return 0


def _search(bug: Bug, first: int, seeds: int) -> int:
    began = time.process_time()
    for seed in range(first, first + seeds):
        try:
            world_of(seed, bug).run()
        except Failed as failed:
            took = time.process_time() - began
            print(
                f"{bug.name}: seed {seed}, after {took:.1f} s: {type(failed.error).__name__}: {failed.error}"
            )
            return 0
    print(f"{bug.name}: not found in seeds {first} to {first + seeds - 1}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
