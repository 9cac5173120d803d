"""kill -9 at any moment, restart, and the same bytes come out."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tapestry.host.processes import pid_alive
from tapestry.protocol.artifact import State

from .support import RUN, Node, Zygote, kill, start, wait_until

pytestmark = pytest.mark.long

ROUNDS = 2
STEPS = 40
FAILPOINTS = [
    "trainer.step:1",
    "trainer.step:40",
    "trainer.inner.saved:1",
    "trainer.inner.saved:2",
    "trainer.delta.written",
    "trainer.result.published",
]


def make(root: Path) -> Node:
    return Node.make(root, steps=STEPS, checkpoint_s=0.05)


def done(node: Node, number: int) -> bool:
    return (node.folder(number) / "result.json").exists()


def outcome(node: Node) -> list[dict[str, str]]:
    return [node.fingerprints(number) for number in range(1, ROUNDS + 1)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> tuple[Node, list[dict[str, str]]]:
    """Two rounds that nobody disturbed."""
    node = make(tmp_path_factory.mktemp("reference"))
    state = node.state
    zygote.start(node)
    for number in range(1, ROUNDS + 1):
        node.give(node.job(number, state))
        wait_until(lambda number=number: done(node, number))  # type: ignore[misc]
        state = node.merged(number, state)
    zygote.end()
    return node, outcome(node)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_failpoints(
    reference: tuple[Node, list[dict[str, str]]], tmp_path: Path, zygote: Zygote, failpoint: str
) -> None:
    node, once = make(tmp_path), tmp_path / "died"
    state = node.state
    for number in range(1, ROUNDS + 1):
        once.unlink(missing_ok=True)
        node.give(node.job(number, state))
        zygote.start(node, TAPESTRY_FAILPOINT=failpoint, TAPESTRY_FAILPOINT_ONCE=str(once))
        assert zygote.end(None) == -9, "the failpoint was not reached"
        zygote.start(node)
        wait_until(lambda number=number: done(node, number))  # type: ignore[misc]
        zygote.end()
        state = node.merged(number, state)
    assert outcome(node) == reference[1]


def disturbed(node: Node, zygote: Zygote, dice: random.Random, kills: int) -> int:
    """Two rounds with a kill at random moments; returns how many hit."""
    state: State = node.state
    hits = 0
    for number in range(1, ROUNDS + 1):
        node.give(node.job(number, state))
        while not done(node, number):
            zygote.start(node)
            if hits < kills:
                time.sleep(dice.uniform(0.0, 0.3))
                hits += not done(node, number)
            else:
                wait_until(lambda number=number: done(node, number))  # type: ignore[misc]
            zygote.end()
        state = node.merged(number, state)
    return hits


def test_random_kills(reference: tuple[Node, list[dict[str, str]]], tmp_path: Path, zygote: Zygote) -> None:
    dice = random.Random(time.time_ns())
    hits = sum(disturbed(make(tmp_path / str(n)), zygote, dice, kills=8) for n in range(2))
    assert hits >= 2
    for n in range(2):
        assert outcome(make(tmp_path / str(n))) == reference[1]


@pytest.mark.long
def test_many_random_kills(
    reference: tuple[Node, list[dict[str, str]]], tmp_path: Path, zygote: Zygote
) -> None:
    hits, number = 0, 0
    while hits < 200:
        node = make(tmp_path / str(number))
        hits += disturbed(node, zygote, random.Random(number), kills=20)
        assert outcome(node) == reference[1]
        shutil.rmtree(node.root)
        number += 1


def test_kills_through_torchrun(reference: tuple[Node, list[dict[str, str]]], tmp_path: Path) -> None:
    node = make(tmp_path)
    node.give(node.job(1))
    process = start(node, torchrun=True, TAPESTRY_FAILPOINT="trainer.step:20")
    assert process.wait() != 0, "torchrun ends when its worker is killed"
    assert not done(node, 1)
    assert (node.out / f"{RUN}.1.partial").exists()
    process = start(node, torchrun=True)
    wait_until(lambda: done(node, 1))
    assert node.status()["pid"] == process.pid
    worker = node.status()["worker"]
    assert worker != process.pid and pid_alive(worker)
    kill(process)
    wait_until(lambda: not pid_alive(worker), timeout_s=10)
    node.give(node.job(2, node.merged(1, node.state)))
    process = start(node)
    wait_until(lambda: done(node, 2))
    kill(process)
    assert outcome(node) == reference[1]
