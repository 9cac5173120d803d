"""Runs of a whole federation under faults: none may go wrong, each can be had again, and bugs are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import campaign
from tests.sim.__main__ import world_of
from tests.sim.bugs import BUGS
from tests.sim.faults import Faults
from tests.sim.lies import LIES
from tests.sim.scheduler import Process, Violation
from tests.sim.split import SAFE, Split, SplitOfEight, simulate
from tests.sim.world import WORDS_FIRST, Failed, World

SEEDS = int(os.environ.get("TAPESTRY_SIM_SEEDS", "200"))
BLOCKS = 10
ROOT = Path(__file__).parents[2]
SAME = (3, 7, 24, 40)
ANOTHER = 7
"""A hash seed other than this process's."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_seed_fails(block: int) -> None:
    each = -(-SEEDS // BLOCKS)
    for seed in range(block * each, min(SEEDS, (block + 1) * each)):
        simulate(seed if seed % 3 else seed + WORDS_FIRST)


def test_a_seed_always_gives_the_same_run() -> None:
    """In this process, and in another where sets have another order."""
    first = {seed: simulate(seed) for seed in SAME}
    assert {seed: simulate(seed) for seed in SAME} == first
    assert len({report.digest for report in first.values()}) == len(SAME)
    code = f"from tests.sim.split import simulate\nfor seed in {SAME}: print(simulate(seed).digest)"
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment = {**os.environ, "PYTHONHASHSEED": str(ANOTHER), "PYTHONPATH": path}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [report.digest for report in first.values()]


def test_a_failing_seed_fails_again_in_the_same_way() -> None:
    bug = BUGS["closed-while-screening"]
    traces = []
    for _ in range(2):
        with pytest.raises(Failed) as failed:
            world_of(bug.seed, bug).run()
        assert isinstance(failed.value.error, Violation)
        traces.append([line for line in failed.value.lines if "File" not in line])
    assert traces[0] == traces[1]


def test_without_faults_nothing_is_lost_or_repeated() -> None:
    report = World(11, Faults(), hostile=False, lie="", loses=False).run()
    assert (report.crashes, report.merges) == (
        0,
        World(11, Faults(), hostile=False, lie="", loses=False).plan.rounds.total,
    )


@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_bug_is_found(name: str) -> None:
    """And the same seed finds nothing where the defence is there."""
    bug = BUGS[name]
    with pytest.raises(Failed) as failed:
        world_of(bug.seed, bug).run()
    assert not isinstance(failed.value.error, AttributeError | NameError), "the bug itself is broken"
    world_of(bug.seed, bug, mended=True).run()


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= 45


@pytest.mark.parametrize("lie", LIES)
def test_a_core_that_lies_is_found_out(lie: str) -> None:
    told = 0
    for seed in range(2):
        world = World(seed, lie=lie)
        world.run()
        told += bool(world.observer.forged or world.observer.dropped)
    assert told


@pytest.mark.parametrize("seed", range(4))
def test_two_histories_find_no_two_quorums(seed: int) -> None:
    """Four of five members make one where two of them sign for both; three do not, and both sides train."""
    Split(seed).run()
    with pytest.raises(Failed, match="trains on another base"):
        Split(seed, quorum=SAFE - 1).run()


def test_two_of_eight_cannot_make_two_quorums_either() -> None:
    SplitOfEight(0).run()
    with pytest.raises(Failed, match="trains on another base"):
        SplitOfEight(0, quorum=SplitOfEight.safe - 1).run()


@pytest.mark.parametrize("seed", range(4))
def test_a_lost_core_comes_back_from_its_nodes(seed: int) -> None:
    World(seed, hostile=False, lie="", loses=True).run()


@pytest.mark.parametrize("seed", [2, 11])
def test_a_core_is_recovered_while_its_nodes_run(seed: int) -> None:
    """They put on disk what they were shown once the core is away; else these end in two histories."""
    world = World(seed, hostile=False, lie="", loses=True)
    world.stops_nodes = False
    world.run()


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    told: list[str] = []
    first = campaign.run(tmp_path, seeds=2, label="a", tell=told.append)
    assert (first.first, first.next, first.failed) == (0, 2, {})
    second = campaign.run(tmp_path, seeds=1, label="a", tell=told.append)
    assert (second.first, second.next) == (0, 3)
    assert "below 1 of all" in second.line()
    assert campaign.load(tmp_path, "b") is None
    assert campaign.run(tmp_path, seeds=0, label="a").merges == second.merges
    assert campaign.run(tmp_path, seeds=1, first=5, label="a").next == 6


def test_an_interrupted_campaign_keeps_its_count(tmp_path: Path) -> None:
    """And calls no seed failed, whichever task was at it."""

    class Interrupted(World):
        def _begin(self) -> None:
            super()._begin()
            if self.seed == 1:
                self.scheduler.spawn(Process("somebody"), "interrupted", self._interrupt, in_s=3.0)

        def _interrupt(self) -> None:
            raise KeyboardInterrupt

    made: list[World] = []

    def draw(seed: int) -> World:
        made.append(Interrupted(seed))
        return made[-1]

    with pytest.raises(KeyboardInterrupt):
        campaign.run(tmp_path, seeds=3, label="a", draw=draw)
    kept = campaign.load(tmp_path, "a")
    assert kept is not None and (kept.next, kept.failed) == (1, {})
    assert not made[1].scheduler._tasks and not made[1].root.exists()
