"""A few real faults, and the checks held against faults of our own. The long form is `make chaos`."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.batch import run
from tests.chaos.checks import RUN, Evidence, check
from tests.chaos.planted import FORGOTTEN, acknowledges_before_it_records
from tests.chaos.scene import Scene
from tests.node.support import wait_until


def test_nothing_is_lost_or_counted_twice_whatever_fails(tmp_path: Path) -> None:
    found = run(tmp_path, nodes=3, faults=6, seed="6", spared=1, pause_s=0.8, hold_s=1.5)
    assert sum(found["faults"].values()) == 6 and found["faults"]["core lost"] == 1
    assert [found[key] for key in ("lost", "twice", "forks", "other")] == [[], [], [], []]
    assert found["merges"] >= 3 and found["receipts"] >= 6  # more than half are enough at the deadline
    assert found["spared"]["merged"] >= found["spared"]["trained"] - 1  # the last may be on its way


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """What a core leaves behind that acknowledges one node's contributions before it records them."""
    scene = Scene(
        tmp_path_factory.mktemp("planted"),
        nodes=3,
        rounds=1,
        deadline_s=3.0,
        prepare=acknowledges_before_it_records,
    )
    try:
        scene.begin()
        wait_until(lambda: scene.tend() or time.sleep(0.05), 60)
    finally:
        scene.close()
    yield Evidence.of(scene.core.root, [node.home for node in scene.nodes])


def test_a_core_that_acknowledges_too_early_is_found(forgetful: Evidence) -> None:
    verdict = check(forgetful)
    assert [text.split(" has a receipt ")[0] for text in verdict.lost] == ["node-" + FORGOTTEN[:-2]]
    assert not (verdict.twice or verdict.forks or verdict.other)


def test_each_check_finds_what_it_is_for(forgetful: Evidence, tmp_path: Path) -> None:
    homes = [home for home in forgetful.homes if FORGOTTEN[:-2] not in home.root.name]
    whole = replace(forgetful, homes=homes)
    assert not check(whole, repeat=False).findings

    received = next(
        n for n, (kind, e) in enumerate(whole.lines) if kind == "entry" and e.type == "contribution-received"
    )
    without = replace(whole, lines=whole.lines[:received] + whole.lines[received + 1 :])
    verdict = check(without, repeat=False)
    assert len(verdict.lost) == 1 and "does not hold" in verdict.other[0]

    lines = copy.deepcopy(whole.lines)
    closed = next(e for kind, e in lines if kind == "entry" and e.type == "round-closed")
    closed.body["merged"] = [*closed.body["merged"], closed.body["merged"][0]]
    verdict = check(replace(whole, lines=lines), repeat=False)
    assert len(verdict.twice) == 1 and "does not hold" in verdict.other[0]

    home = type(homes[0])(tmp_path / "node")
    shutil.copytree(homes[0].root, home.root)
    (home.ledger / "fork-0.json").write_text("{}")
    roots = bytearray((home.ledger / "roots").read_bytes())
    roots[-1] ^= 1
    (home.ledger / "roots").write_bytes(roots)
    (home.agent_state).unlink()
    verdict = check(replace(whole, homes=[home]), repeat=False)
    assert len(verdict.forks) == 2 and verdict.other == ["the head of node is not the core's"]
    assert RUN in homes[0].receipts.glob("*.json").__next__().name
