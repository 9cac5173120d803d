"""Kill -9 of every process at every named durability point and at random instants.

The plan sends few values and keeps what it leaves out, so that a residual that was lost, or counted twice,
would show in every later round; the model is merged in two fragments, and nodes train ahead of their base.
The measure is one: with the same accepted set, every state hash and every merged delta is the same as in a
run that nobody disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapestry.host import failpoints
from tapestry.protocol.encoding import Bf16, Codec, TopK
from tapestry.protocol.plan import Merge, Streaming
from tests.federation.kills import RandomKiller
from tests.federation.support import Federation, History

ROUNDS, STEPS = 16, 20
FEW = TopK(keep=8, side=16, bits=4)
SPARSE = {
    "codec": Codec(matrices=FEW, embeddings=FEW, norms=Bf16(), error_feedback=0.95),
    "merge": Merge(outer="sgd", outer_rate=1.0, outer_momentum=0.0, influence_cap=0.9),
    "streaming": Streaming(fragments=2, overlap_steps=4),
}

ON_THE_CORE = [n for n in failpoints.NAMES if n.startswith(("core.", "replay.", "file."))]
ON_A_NODE = [n for n in failpoints.NAMES if n.startswith(("node.", "gate.", "file."))]
ON_ANOTHER = [n for n in failpoints.NAMES if n.startswith(("trainer.", "replay."))]


Runs = Callable[..., Federation]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Runs]:
    """Lays out a federation; what runs of it is stopped in the end."""
    made: list[Federation] = []

    def make(name: str, *, rounds: int, steps: int) -> Federation:
        made.append(
            Federation(
                tmp_path / name, seed_blobs=tmp_path / f"seed-{name}", rounds=rounds, steps=steps, **SPARSE
            )
        )
        return made[-1]

    yield make
    for federation in made:
        federation.stop()


_CALM: dict[tuple[int, int], History] = {}


def undisturbed(start: Runs, *, rounds: int, steps: int) -> History:
    """What a run gives that nobody disturbs; run once for all tests with the same numbers."""
    if (rounds, steps) not in _CALM:
        calm = start("calm", rounds=rounds, steps=steps)
        calm.start()
        calm.keep_going(timeout_s=120 + 3 * rounds)
        _CALM[rounds, steps] = calm.history()
    return _CALM[rounds, steps]


@pytest.mark.timeout(600)
def test_killed_at_every_durability_point(start: Runs, tmp_path: Path) -> None:
    wild = start("wild", rounds=ROUNDS, steps=STEPS)
    # A node's agent can write nowhere else.
    marks = {"core": tmp_path / "marks", **{name: wild.node(name) / "state" for name in ("a", "b")}}
    marks["core"].mkdir()
    for name, points in (("core", ON_THE_CORE), ("a", ON_A_NODE), ("b", ON_ANOTHER)):
        wild.environment[name] = {
            failpoints.VARIABLE: ",".join(f"{p}:2" if p == "trainer.step" else p for p in points),
            failpoints.ONCE_VARIABLE: str(marks[name] / "died"),
        }
    wild.start()
    wild.keep_going(timeout_s=400)

    hit = {p.name.removeprefix("died.") for folder in marks.values() for p in folder.glob("died.*")}
    print(f"killed once each at {len(hit)} durability points: {', '.join(sorted(hit))}")
    # Those of a build, tests/sovereign/test_build.py reaches.
    assert hit == {name for name in failpoints.NAMES if not name.startswith("build.")}
    calm = undisturbed(start, rounds=ROUNDS, steps=STEPS)
    assert len(calm) == ROUNDS
    assert wild.history() == calm


def random_kills(start: Runs, *, kills: int, rounds: int, timeout_s: float) -> None:
    wild = start("wild", rounds=rounds, steps=STEPS)
    killer = RandomKiller(wild, count=kills, seed=kills)
    wild.start()
    wild.keep_going(timeout_s=timeout_s, between=killer)
    print(f"\n{killer.done} kills, processes restarted by hand: {wild.restarts}\n{killer.table()}")
    assert killer.done == kills, "the run ended before the kills did"
    assert wild.history() == undisturbed(start, rounds=rounds, steps=STEPS)


@pytest.mark.long
def test_killed_at_random_instants(start: Runs) -> None:
    random_kills(start, kills=20, rounds=ROUNDS, timeout_s=230)


@pytest.mark.long
def test_killed_at_many_random_instants(start: Runs) -> None:
    random_kills(start, kills=200, rounds=400, timeout_s=4000)
