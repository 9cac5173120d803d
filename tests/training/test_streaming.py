"""Streaming DiLoCo at one node: fragments in turn, steps ahead of the base, and mixing."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tapestry.codec.shards import ShardCodec, add_
from tapestry.errors import DiskFull
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.encoding import Codec, TopK
from tapestry.protocol.layout import Layout
from tapestry.protocol.layout import Tensor as Named
from tapestry.protocol.plan import Merge, Streaming
from tapestry.tensors import shards
from tapestry.training import checkpoint
from tapestry.training import trainer as module
from tapestry.training.home import Status, TrainerHome
from tapestry.training.inner import InnerLoop, Round
from tapestry.training.model import strided
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.settings import TrainerSettings
from tapestry.training.trainer import Trainer

from .support import Node, inner_tensors

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS, AHEAD, MIXING = 6, 2, 0.5
HALVES = Streaming(fragments=2, overlap_steps=AHEAD, mixing=MIXING)
SPARSE = Codec(matrices=TopK(kind="topk", keep=64, side=64, bits=2), error_feedback=0.95)


def make_node(root: Path, streaming: Streaming = HALVES, codec: Codec | None = None) -> Node:
    node = Node.make(root, fragments=streaming.fragments)
    changed = {"streaming": streaming, "rounds": node.plan.rounds.model_copy(update={"total": 9})}
    if codec is not None:
        changed |= {"codec": codec, "merge": Merge(outer="sgd", outer_rate=1.0, outer_momentum=0.0)}
    node.plan = node.plan.model_copy(update=changed)
    node.store.put(node.plan.to_bytes())
    return node


def make_trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    home.clean()
    return Trainer(home, TrainerSettings.load(node.root), Status(home))


def follow(node: Node, trainers: Sequence[Trainer], rounds: int) -> list[State]:
    """Each round by the next of these trainers; the states before and after each."""
    states = [node.state]
    for number, trainer in zip(range(1, rounds + 1), itertools.cycle(trainers), strict=False):
        assert trainer.do(node.job(number, states[-1]))
        states.append(node.merged(number, states[-1]))
    return states


def test_a_resident_trainer_and_fresh_ones_give_the_same_bytes(tmp_path: Path) -> None:
    node, other = make_node(tmp_path / "home"), make_node(tmp_path / "other")
    resident, state = make_trainer(node), node.state
    for number in range(1, 6):
        resident.do(node.job(number, state))
        make_trainer(other).do(other.job(number, state))
        assert node.fingerprints(number) == other.fingerprints(number)
        state = node.merged(number, state)
        shutil.copytree(node.root / "blobs", other.root / "blobs", dirs_exist_ok=True)


def test_another_job_in_between_changes_nothing(tmp_path: Path) -> None:
    """A node of several runs loses the steps it took ahead, and takes them again."""
    node, other = make_node(tmp_path / "home"), make_node(tmp_path / "other")
    states = follow(node, [make_trainer(node)], 2)
    trainer = make_trainer(other)
    shutil.copytree(node.root / "blobs", other.root / "blobs", dirs_exist_ok=True)
    trainer.do(other.job(1, states[0]))
    trainer.do(other.job(1, states[0], train=False, run="another"))
    trainer.do(other.job(2, states[1]))
    assert node.fingerprints(2) == other.fingerprints(2)


def test_what_is_sent_is_what_the_paper_says(tmp_path: Path) -> None:
    """Against the algorithm as it is written down, on plain tensors: every fragment is synchronized every
    other round and mixed in `AHEAD` steps later."""
    node = make_node(tmp_path / "home")
    trainer = make_trainer(node)
    states = follow(node, [trainer], 5)
    sent = [_dense(node, number) for number in range(1, 6) if node.folder(number).exists()]

    loaded, inner = trainer.loaded, node.plan.inner
    assert loaded is not None
    loaded.load_base(node.store, node.state.base)
    shared = {name: p.detach().clone() for name, p in loaded.parameters.items()}
    of = dict(zip(loaded.parameters, node.layout.fragments, strict=True))
    optimizer = InnerOptimizer(loaded.parameters, inner, node.plan.codec.is_embedding)
    loop = InnerLoop(trainer.home, trainer.settings, trainer.island)
    loaded.module.train()
    assert trainer.text.corpus is not None
    from tapestry.training.task import make_task

    current = Round(
        node.job(1), optimizer, make_task(node.plan, trainer.text.corpus, "acme-1"), _base(node), 0
    )
    due: tuple[int, dict[str, Tensor]] | None = None
    deltas = []
    for step in range(5 * STEPS):
        if due is not None and step == due[0]:
            with torch.no_grad():
                for name, new in due[1].items():
                    own = loaded.parameters[name]
                    own.copy_(MIXING * own + (1 - MIXING) * new)
            due = None
        current.origin, current.stride, current.losses = step, 1.0, []
        loop.step(current, loaded)
        if (step + 1) % STEPS == 0:
            fragment = (step // STEPS) % 2
            moved = {n: shared[n] - p.detach() for n, p in loaded.parameters.items() if of[n] == fragment}
            deltas.append(moved)
            for name, delta in moved.items():
                shared[name] -= delta
            due = (step + 1 + AHEAD, {name: shared[name].clone() for name in moved})
    assert learning_rate(inner, 0, node.plan.total_steps) > 0
    for mine, theirs in zip(sent, deltas[-len(sent) :], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], atol=2e-6, rtol=1e-4)
    assert len(states) == 6


def test_a_delta_is_of_one_fragment_and_the_others_stay(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home")
    states = follow(node, [make_trainer(node)], 2)
    every = [Artifact.from_bytes(node.store.read(state.base)).shards for state in states]
    for number, fragment in ((1, 0), (2, 1)):
        result = node.result(number)
        assert result.fragment == fragment
        delta = Artifact.from_bytes((node.folder(number) / "delta.json").read_bytes())
        delta.check_against(node.layout.fragment(fragment), kind="delta")
        for shard, before, after in zip(node.layout.shards, every[number - 1], every[number], strict=True):
            assert (before == after) == (shard.fragment != fragment)


def test_a_node_that_was_away_too_long_begins_from_the_base(tmp_path: Path) -> None:
    node, fresh = make_node(tmp_path / "home"), make_node(tmp_path / "fresh")
    states = follow(node, [make_trainer(node)], 5)
    late = make_trainer(fresh)
    shutil.copytree(node.root / "blobs", fresh.root / "blobs", dirs_exist_ok=True)
    late.do(fresh.job(1, states[0]))
    kept: dict[int, dict[str, Tensor]] = {}
    real = InnerLoop.step

    def look(self: InnerLoop, current: Round, *more: object, **named: object) -> list[bool]:
        assert late.loaded is not None
        if current.step == 0:  # the steps ahead of the next round come under this job too, later
            now = {n: p.detach().clone() for n, p in late.loaded.parameters.items()}
            kept.setdefault(current.job.round, now)
        return real(self, current, *more, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InnerLoop, "step", look)
        late.do(fresh.job(5, states[4]))
    assert late.loaded is not None
    late.loaded.load_base(fresh.store, states[4].base)
    for name, parameter in late.loaded.parameters.items():
        assert torch.equal(kept[5][name], parameter), name


def test_what_cannot_be_published_ends_the_trainer_before_it_trains_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is published beside the next step's gradient; parameters and moments stay as they were sent."""
    node = make_node(tmp_path / "home")
    trainer = make_trainer(node)

    def full(*_: object, **__: object) -> None:
        raise DiskFull("no space")

    monkeypatch.setattr(module, "publish", full)
    taken: list[int] = []
    real = InnerOptimizer.step

    def count(self: InnerOptimizer, rate: float) -> None:
        taken.append(1)
        real(self, rate)

    monkeypatch.setattr(InnerOptimizer, "step", count)
    with pytest.raises(DiskFull):
        trainer.do(node.job(1))
    assert len(taken) == STEPS


def test_the_score_is_the_shared_bases(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home")
    trainer = make_trainer(node)
    states = follow(node, [trainer], 3)
    trainer.do(node.job(4, states[3], train=False))
    alone = make_trainer(make_node(tmp_path / "other"))
    shutil.copytree(node.root / "blobs", tmp_path / "other" / "blobs", dirs_exist_ok=True)
    alone.do(node.job(4, states[3], train=False))
    assert trainer.loaded is not None and alone.loaded is not None
    for name, parameter in alone.loaded.parameters.items():
        assert torch.equal(parameter, trainer.loaded.parameters[name])


def sparse(root: Path) -> tuple[Node, Trainer]:
    node = make_node(root, Streaming(fragments=2, overlap_steps=AHEAD), SPARSE)
    return node, make_trainer(node)


def after(node: Node, merges: int) -> State:
    """A state after so many merges, none of which has changed anything."""
    state = node.state.model_copy(update={"merges": merges})
    node.store.put(state.to_bytes())
    return state


def test_residuals_are_each_fragments_own(tmp_path: Path) -> None:
    """What fragment 0 has left over waits for its turn."""
    node, trainer = sparse(tmp_path / "home")
    trainer.do(node.job(1, node.state))
    one = _residual(node, 1)
    assert largest(node, one, 0) > 0 == largest(node, one, 1)
    trainer.do(node.job(2, after(node, 1), merged_round=1))
    two = _residual(node, 2)
    assert all(torch.equal(v, two[i]) for i, v in one.items() if _fragment(node, i) == 0), "carried over"
    assert largest(node, two, 1) > 0


def test_what_no_merge_followed_is_not_counted_twice(tmp_path: Path) -> None:
    """Rounds 1 and 2 were abandoned: all they moved is in the node's own parameters, so round 3 has nothing
    left over from them. The same for a node whose trainer was restarted each time."""
    node, trainer = sparse(tmp_path / "home")
    other, _ = sparse(tmp_path / "other")
    for number in (1, 2, 3):
        trainer.do(node.job(number, node.state))
        make_trainer(other).do(other.job(number, other.state))
        assert node.fingerprints(number) == other.fingerprints(number)
        moved = _base_less_own(node, trainer, 0)
        left = _residual(node, number)
        sent = _decoded(node, number)
        for index, values in moved.items():
            torch.testing.assert_close(sent[index] + left[index], values, atol=1e-6, rtol=1e-5)
            assert float(values.abs().max()) > 0


def test_a_refused_delta_outlives_an_abandoned_round(tmp_path: Path) -> None:
    """Round 1's delta was refused while others' were merged, so it returns, and waits for fragment 0's turn
    while round 2, of fragment 1, is abandoned twice."""
    node, trainer = sparse(tmp_path / "home")
    trainer.do(node.job(1, node.state))
    due = {i: v + _decoded(node, 1)[i] for i, v in _residual(node, 1).items() if _fragment(node, i) == 0}
    second = after(node, 1)
    for number in (2, 3, 4):
        trainer.do(node.job(number, second, merged_round=number - 2))
        left = _residual(node, number)
        for index, values in due.items():
            torch.testing.assert_close(left[index], values, atol=1e-7, rtol=1e-6)


def test_a_plan_that_begins_to_stream_keeps_the_optimizers_state(tmp_path: Path) -> None:
    node = make_node(tmp_path / "home", Streaming())
    trainer = make_trainer(node)
    states = follow(node, [trainer], 1)
    streaming = Streaming(overlap_steps=AHEAD)
    node.plan = node.plan.model_copy(update={"streaming": streaming, "revision": 2})
    node.store.put(node.plan.to_bytes())
    trainer.do(node.job(2, states[1]))
    header = checkpoint.read_header(node.folder(2) / "inner")
    assert (header.optimizer_steps, header.parameters) == (2 * STEPS, True)


@pytest.mark.parametrize(
    ("names", "fragments", "expected"),
    [
        (["m.layers.0.a", "m.layers.1.a", "m.layers.2.a", "m.norm"], 2, (0, 1, 0, 1)),
        (["embed", "m.layers.0.a", "m.layers.1.a"], 2, (0, 0, 1)),
        (["m.layers.0.a", "m.layers.1.a"], 1, ()),
    ],
)
def test_blocks_take_turns(names: list[str], fragments: int, expected: tuple[int, ...]) -> None:
    assert strided([Named(name=name, shape=(4, 4)) for name in names], fragments) == expected


def test_more_fragments_than_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="too few blocks for 3 fragments"):
        strided([Named(name="m.layers.0.a", shape=(4,)), Named(name="norm", shape=(4,))], 3)


def test_a_map_that_does_not_cover_the_model_is_refused() -> None:
    tensors = (Named(name="a", shape=(4,)), Named(name="b", shape=(4,)))
    with pytest.raises(ValueError, match="names 1 tensors, there are 2"):
        Layout(tensors=tensors, fragments=(0,))
    with pytest.raises(ValueError, match="no tensor is in fragment 0"):
        Layout(tensors=tensors, fragments=(1, 2))


def _fragment(node: Node, index: int) -> int:
    return node.layout.shards[index].fragment


def _residual(node: Node, number: int) -> dict[int, Tensor]:
    folder = node.folder(number) / "inner" / "residual"
    kept = Artifact.from_bytes((folder / "manifest.json").read_bytes())
    return {
        shard.index: shards.values(shard, bytearray((folder / blob.sha256).read_bytes()))
        for shard, blob in zip(node.layout.shards, kept.shards, strict=True)
    }


def largest(node: Node, values: dict[int, Tensor], fragment: int) -> float:
    return max(float(v.abs().max()) for i, v in values.items() if _fragment(node, i) == fragment)


def _base_less_own(node: Node, trainer: Trainer, fragment: int) -> dict[int, Tensor]:
    """Of a fragment, as it was at the end of the round: what lies in its inner state."""
    own = inner_tensors(node.folder(trainer_round(node)) / "inner")
    base = _base(node)
    found = {}
    for shard in node.layout.fragment(fragment).shards:
        data = bytearray(node.store.read(base.shards[shard.index].sha256))
        rows = shards.unpack(shard, data)
        for piece in shard.pieces:
            name = piece.tensor.name
            mine = own[f"parameter.{name}"]
            rows[name].sub_(mine[piece.row_start : piece.row_stop] if mine.dim() else mine)
        found[shard.index] = shards.values(shard, data)
    return found


def trainer_round(node: Node) -> int:
    """The newest finished round."""
    return max(int(p.name.rpartition(".")[2]) for p in node.out.iterdir() if p.name[-1].isdigit())


def _decoded(node: Node, number: int) -> dict[int, Tensor]:
    """What a round has sent, dense, by shard."""
    delta = Artifact.from_bytes((node.folder(number) / "delta.json").read_bytes())
    fragment = node.layout.fragment(node.result(number).fragment)
    found = {}
    for shard, blob in zip(fragment.shards, delta.shards, strict=True):
        total = torch.zeros(shard.elements)
        data = (node.folder(number) / blob.sha256).read_bytes()
        add_(ShardCodec(SPARSE).decode(shard, data), total)
        found[shard.index] = total
    return found


def _base(node: Node) -> Artifact:
    return Artifact.from_bytes(node.store.read(node.state.base))


def _dense(node: Node, number: int) -> dict[str, Tensor]:
    """The delta of a round, whole tensors by name."""
    delta = Artifact.from_bytes((node.folder(number) / "delta.json").read_bytes())
    fragment = node.layout.fragment(node.result(number).fragment)
    found: dict[str, list[Tensor]] = {}
    for shard, blob in zip(fragment.shards, delta.shards, strict=True):
        data = bytearray((node.folder(number) / blob.sha256).read_bytes())
        for name, rows in shards.unpack(shard, data).items():
            found.setdefault(name, []).append(rows.clone())
    return {name: torch.cat(rows) if rows[0].dim() else rows[0] for name, rows in found.items()}
