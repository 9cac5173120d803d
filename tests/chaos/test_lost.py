"""A core that is lost after calm rounds, set up again from nodes that have erased what they need no more."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.checks import Evidence, check
from tests.chaos.scene import Scene

ROUNDS = 5
"""By then the first states are erased, among them momenta that are some update byte by byte."""


@pytest.mark.long
def test_every_merge_can_be_repeated_after_the_core_was_lost(tmp_path: Path) -> None:
    scene = Scene(tmp_path, nodes=3, deadline_s=60.0)

    def until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not done():
            scene.tend()
            time.sleep(0.05)
            assert time.monotonic() < deadline, scene.tails()

    try:
        scene.begin()
        until(lambda: scene.rounds_done() >= ROUNDS)
        scene.lose_core()
        until(lambda: scene.rounds_done() > ROUNDS)
        scene.end_after(1)
        until(scene.tend)
    finally:
        scene.close()
    verdict = check(Evidence.of(scene.core.root, [node.home for node in scene.nodes]))
    assert verdict.merges > ROUNDS + 1
    assert [verdict.lost, verdict.twice, verdict.forks, verdict.other] == [[], [], [], []]
