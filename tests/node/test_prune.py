"""What a node erases, and what shares its bytes with something that stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.errors import NotFound
from tapestry.node.home import Home, round_name
from tapestry.node.memory import HeadMemory, Memory
from tapestry.node.prune import Pruner
from tapestry.node.sync import blobs_of
from tapestry.protocol.artifact import State
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Plan, Retention
from tapestry.protocol.views import RoundRecord
from tapestry.storage.blobs import BlobStore
from tests.core.support import EMPTY, artifact, make_plan, shards

RUN = "run"
OTHER = "other"
ROUNDS = 6


class Scene:
    """A node after some rounds, each with one contribution, whose mean the momentum of that round is."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.home.make_folders()
        self.store = BlobStore.open(self.home.blobs)
        self.plan = make_plan(self.home.blobs)
        self.memory = Memory(self.home)
        self.pruner = Pruner(self.home, self.store, self.memory)
        self.deltas = [self._round(number) for number in range(1, ROUNDS + 1)]

    def put(self, kind: str, value: float) -> str:
        data = shards(value)
        for blob in data:
            self.store.put(blob)
        return self.store.put(artifact(kind, data).to_bytes())  # type: ignore[arg-type]

    def _round(self, number: int) -> str:
        base, outer, delta = (
            self.put("base", 10.0 * number),
            self.put("outer", number + 0.5),
            self.put("delta", number + 0.5),
        )
        state = State(run=RUN, model=self.plan.model, merges=number, base=base, outer=outer)
        self.store.put(state.to_bytes())
        self.record(RUN, number, delta)
        self.memory.set_head(RUN, HeadMemory(merges=number, state=state.digest, round=number))
        return delta

    def record(self, run: str, number: int, delta: str) -> None:
        merged = Merged(node="a-1", member="a", contribution=EMPTY, delta=delta, weight=1 << 24)
        record = RoundRecord(
            run=run, round=number, fragment=0, plan=EMPTY, before=EMPTY, after=EMPTY,
            merged=(merged,), envelopes=("{}",),
        )  # fmt: skip
        (self.home.records / f"{round_name(run, number)}.json").write_bytes(record.to_bytes())

    def whole(self, sha: str) -> bool:
        try:
            for blob in artifact("delta", shards(self.deltas.index(sha) + 1.5)).shards:
                self.store.read(blob.sha256)
        except NotFound:
            return False
        return True


def prune(scene: Scene, plan: Plan, others: list[str]) -> list[bool]:
    """Which contributions are whole afterwards."""
    for _ in range(2):
        scene.pruner.prune(RUN, plan, others)
    return [scene.whole(delta) for delta in scene.deltas]


@pytest.mark.parametrize("kept", [1 << 20, 3])
def test_a_contribution_that_a_momentum_is_like_is_kept(tmp_path: Path, kept: int) -> None:
    scene = Scene(tmp_path)
    plan = scene.plan.model_copy(update={"retention": Retention(blob_rounds=kept)})
    lately = [number > ROUNDS - 2 or number > ROUNDS - kept for number in range(1, ROUNDS + 1)]
    assert prune(scene, plan, []) == lately
    assert len(scene.memory[RUN].older) == 1


def test_without_that_it_goes_with_the_momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(Pruner, "_of_rounds", lambda *_: [])
    scene = Scene(tmp_path)
    assert prune(scene, scene.plan, []) == [False] * (ROUNDS - 2) + [True] * 2


class Same(Scene):
    """The same update in every round, without a momentum; its shards are as long as a state's, or not."""

    packed = False

    def _round(self, number: int) -> str:
        base = self.put("base", 10.0 * number)
        delta = self.put("delta", 0.5)
        if self.packed:
            data = [b"packed" for _ in shards(0.0)]
            self.store.put(data[0])
            delta = self.store.put(artifact("delta", data).to_bytes())
        state = State(run=RUN, model=self.plan.model, merges=number, base=base, outer=None)
        self.store.put(state.to_bytes())
        self.record(RUN, number, delta)
        self.memory.set_head(RUN, HeadMemory(merges=number, state=state.digest, round=number))
        return delta


class Packed(Same):
    packed = True


@pytest.mark.parametrize("kind", [Same, Packed])
@pytest.mark.parametrize("checked", [True, False])
def test_what_a_kept_round_has_too_does_not_go_with_an_old_one(
    tmp_path: Path, kind: type[Same], checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not checked:
        monkeypatch.setattr(Pruner, "_of_rounds", lambda *_: [])
    scene = kind(tmp_path)
    plan = scene.plan.model_copy(update={"retention": Retention(blob_rounds=3)})
    scene.pruner.prune(RUN, plan, [])
    assert scene.memory[RUN].pruned_round == ROUNDS - 3
    assert (
        all(scene.store.has(blob.sha256) for blob in blobs_of(scene.store, scene.deltas[-1]))
        if checked
        else (not scene.store.has(scene.deltas[-1]))
    )


def test_many_rounds_are_looked_through_by_and_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.node.prune.SEEN_AT_ONCE", 2)
    scene = Scene(tmp_path)
    calls = [scene.pruner.prune(RUN, scene.plan, []) for _ in range(4)]
    assert calls[:2] == [0, 0] and calls[2] > 0 and calls[3] == 0
    assert all(map(scene.whole, scene.deltas))


def test_a_manifest_that_was_away_is_looked_at_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    first = scene.store.read(scene.deltas[0])
    scene.store.delete(scene.deltas[0])
    older = scene.memory[RUN].older
    scene.pruner.prune(RUN, scene.plan, [], held=set(older[:-2]))  # the first momentum stays for now
    scene.store.put(first)
    scene.pruner.prune(RUN, scene.plan, [])
    assert len(scene.memory[RUN].older) == 1 and scene.whole(scene.deltas[0])


@pytest.mark.parametrize("others", [[OTHER], []])
def test_a_contribution_to_another_run_is_kept(tmp_path: Path, others: list[str]) -> None:
    scene = Scene(tmp_path)
    for number, delta in enumerate(scene.deltas[:2], start=1):
        scene.record(OTHER, number, delta)
    for path in scene.home.records.glob(f"{RUN}.*"):
        path.unlink()
    scene.memory.set_head(OTHER, HeadMemory(merges=2, state=EMPTY, round=2))
    first = [bool(others)] * 2
    assert prune(scene, scene.plan, others) == [*first, False, False, True, True]
