"""Kill -9 of every process at every named durability point and at random instants.

The measure is one: with the same accepted set, every state hash and every merged delta is the same as in
a run that nobody disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.host import failpoints
from tests.federation.kills import RandomKiller
from tests.federation.support import Federation

ON_THE_CORE = [n for n in failpoints.NAMES if n.startswith(("core.", "replay.", "file."))]
ON_A_NODE = [n for n in failpoints.NAMES if n.startswith(("node.", "gate.", "file."))]
ON_ANOTHER = [n for n in failpoints.NAMES if n.startswith(("trainer.", "replay."))]


@pytest.fixture
def federations(tmp_path: Path) -> Iterator[list[Federation]]:
    started: list[Federation] = []
    yield started
    for federation in started:
        federation.stop()


def undisturbed(federations: list[Federation], tmp_path: Path, rounds: int, steps: int) -> Federation:
    calm = Federation(tmp_path / "calm", seed_blobs=tmp_path / "seed-calm", rounds=rounds, steps=steps)
    federations.append(calm)
    calm.start()
    calm.keep_going(timeout_s=120 + 3 * rounds)
    return calm


def disturbed(federations: list[Federation], tmp_path: Path, rounds: int, steps: int) -> Federation:
    wild = Federation(tmp_path / "wild", seed_blobs=tmp_path / "seed-wild", rounds=rounds, steps=steps)
    federations.append(wild)
    return wild


def test_killed_at_every_durability_point(federations: list[Federation], tmp_path: Path) -> None:
    wild = disturbed(federations, tmp_path, rounds=8, steps=4)
    marks = tmp_path / "marks"
    for name, points in (("core", ON_THE_CORE), ("a", ON_A_NODE), ("b", ON_ANOTHER)):
        marks.joinpath(name).mkdir(parents=True)
        wild.environment[name] = {
            failpoints.VARIABLE: ",".join(f"{p}:2" if p == "trainer.step" else p for p in points),
            failpoints.ONCE_VARIABLE: str(marks / name / "died"),
        }
    wild.start()
    wild.keep_going(timeout_s=200)
    calm = undisturbed(federations, tmp_path, rounds=8, steps=4)

    hit = {p.name.removeprefix("died.") for p in marks.glob("*/died.*")}
    print(f"killed once each at {len(hit)} durability points: {', '.join(sorted(hit))}")
    assert hit == set(failpoints.NAMES)
    assert wild.history() == calm.history()
    assert len(calm.history()) == 8


def random_kills(
    federations: list[Federation], tmp_path: Path, *, kills: int, rounds: int, timeout_s: float
) -> None:
    wild = disturbed(federations, tmp_path, rounds=rounds, steps=30)
    killer = RandomKiller(wild, count=kills, seed=kills)
    wild.start()
    wild.keep_going(timeout_s=timeout_s, between=killer)
    print(f"\n{killer.done} kills, processes restarted by hand: {wild.restarts}\n{killer.table()}")
    assert killer.done == kills, "the run ended before the kills did"
    calm = undisturbed(federations, tmp_path, rounds=rounds, steps=30)
    assert wild.history() == calm.history()


def test_killed_at_random_instants(federations: list[Federation], tmp_path: Path) -> None:
    random_kills(federations, tmp_path, kills=20, rounds=40, timeout_s=230)


@pytest.mark.long
def test_killed_at_many_random_instants(federations: list[Federation], tmp_path: Path) -> None:
    random_kills(federations, tmp_path, kills=200, rounds=400, timeout_s=4000)
