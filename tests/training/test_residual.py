"""What an encoding leaves out is part of the next round's delta; what was merged nowhere returns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tapestry.codec.shards import ShardCodec, add_
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.encoding import Codec, Fp4, TopK
from tapestry.tensors import shards
from tapestry.training.home import Status, TrainerHome
from tapestry.training.settings import TrainerSettings
from tapestry.training.trainer import Trainer

from .support import Node

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = TopK(keep=32, side=64, bits=2)
SPARSE = Codec(matrices=FEW, embeddings=FEW, norms=Fp4(), error_feedback=0.95)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node.make(tmp_path / "home")
    made.plan = made.plan.model_copy(update={"codec": SPARSE})
    made.store.put(made.plan.to_bytes())
    return made


def trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    return Trainer(home, TrainerSettings.load(node.root), Status(home))


def flat(node: Node, trained: Trainer) -> Tensor:
    """base − local, all shards one after the other."""
    assert trained.loaded is not None
    base = Artifact.from_bytes(node.store.read(node.state.base))
    return torch.cat([shards.values(s, data).clone() for s, data in trained.loaded.deltas(node.store, base)])


def sent(node: Node, round: int) -> Tensor:
    manifest = Artifact.from_bytes((node.folder(round) / "delta.json").read_bytes())
    manifest.check_against(node.layout, kind="delta", codec=SPARSE)
    found = []
    for shard, blob in zip(node.layout.shards, manifest.shards, strict=True):
        values = torch.zeros(shard.elements)
        add_(ShardCodec(SPARSE).decode(shard, (node.folder(round) / blob.sha256).read_bytes()), values)
        found.append(values)
    return torch.cat(found)


def left(node: Node, round: int) -> Tensor:
    folder = node.folder(round) / "inner" / "residual"
    manifest = Artifact.from_bytes((folder / "manifest.json").read_bytes())
    return torch.cat(
        [
            shards.values(shard, (folder / blob.sha256).read_bytes())
            for shard, blob in zip(node.layout.shards, manifest.shards, strict=True)
        ]
    )


def test_sent_and_left_are_the_delta(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    delta = flat(node, one)
    assert torch.equal(left(node, 1), delta - sent(node, 1))
    assert 0 < torch.count_nonzero(sent(node, 1)) < delta.numel() / 10
    shapes = {path.name for path in node.folder(1).iterdir() if path.is_file()}
    assert len(shapes) == 2 + len(node.layout.shards), "nothing else leaves"


def test_what_was_left_comes_with_the_next_round(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    one.do(node.job(2, merged_round=1))
    total = left(node, 1) * 0.95 + flat(node, one)
    assert torch.equal(left(node, 2), total - sent(node, 2))


def test_a_delta_that_was_merged_nowhere_returns(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    one.do(node.job(2))  # as of merged_round = 0
    total = (left(node, 1) + sent(node, 1)) * 0.95 + flat(node, one)
    assert torch.equal(left(node, 2), total - sent(node, 2))
    one.do(node.job(3, merged_round=1))  # the second was merged nowhere
    total = (left(node, 2) + sent(node, 2)) * 0.95 + flat(node, one)
    assert torch.equal(left(node, 3), total - sent(node, 3))


def test_it_returns_from_where_the_gate_put_it(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    gone = sent(node, 1)
    for blob in Artifact.from_bytes((node.folder(1) / "delta.json").read_bytes()).shards:
        path = node.folder(1) / blob.sha256
        if path.exists():
            node.store.put(path.read_bytes())
            path.unlink()
    one.do(node.job(2))
    assert torch.equal(left(node, 2), (left(node, 1) + gone) * 0.95 + flat(node, one) - sent(node, 2))


def test_it_returns_as_its_own_plan_had_it_written(node: Node) -> None:
    """The plan was revised meanwhile: another codec, and Muon in place of AdamW."""
    one = trainer(node)
    one.do(node.job(1))
    gone = sent(node, 1)
    whole = Fp4()
    inner = node.plan.inner.model_copy(update={"optimizer": "muon"})
    other = Codec(matrices=whole, embeddings=whole, norms=whole, error_feedback=0.5)
    node.store.put(node.plan.to_bytes())
    node.plan = node.plan.model_copy(update={"codec": other, "inner": inner, "revision": 2})
    one.do(node.job(2))
    assert one.loaded is not None
    due = (left(node, 1) + gone) * 0.5 + flat(node, one)
    manifest = Artifact.from_bytes((node.folder(2) / "delta.json").read_bytes())
    found = torch.zeros(due.numel())
    start = 0
    for shard, blob in zip(node.layout.shards, manifest.shards, strict=True):
        data = (node.folder(2) / blob.sha256).read_bytes()
        add_(ShardCodec(other).decode(shard, data), found[start : start + shard.elements])
        start += shard.elements
    assert torch.equal(left(node, 2), due - found)


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_damaged_delta_cannot_return(node: Node, harm: str, capfd: pytest.CaptureFixture[str]) -> None:
    one = trainer(node)
    one.do(node.job(1))
    blob = Artifact.from_bytes((node.folder(1) / "delta.json").read_bytes()).shards[0]
    path = node.folder(1) / blob.sha256
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    one.do(node.job(2))
    assert "delta cannot return" in capfd.readouterr().err
    assert torch.equal(left(node, 2), left(node, 1) * 0.95 + flat(node, one) - sent(node, 2))


def test_a_fresh_trainer_goes_on_with_it(node: Node, tmp_path: Path) -> None:
    other = Node.make(tmp_path / "other")
    other.plan = node.plan
    one = trainer(node)
    for number in (1, 2):
        one.do(node.job(number, merged_round=number - 1))
        trainer(other).do(other.job(number, merged_round=number - 1))
    assert node.fingerprints(2) == other.fingerprints(2)
    assert torch.equal(left(node, 2), left(other, 2))


@pytest.mark.parametrize("harm", ["cut", "gone", "changed"])
def test_a_damaged_residual_is_passed_over(node: Node, harm: str, capfd: pytest.CaptureFixture[str]) -> None:
    one = trainer(node)
    one.do(node.job(1))
    folder = node.folder(1) / "inner" / "residual"
    path = next(path for path in folder.iterdir() if path.name != "manifest.json")
    match harm:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    one.do(node.job(2, merged_round=1))
    assert "residual passed over" in capfd.readouterr().err
    assert torch.equal(left(node, 2), flat(node, one) - sent(node, 2))


def test_without_feedback_nothing_is_kept(node: Node) -> None:
    node.plan = node.plan.model_copy(
        update={"codec": Codec(matrices=Fp4(), embeddings=Fp4(), norms=Fp4(), error_feedback=None)}
    )
    one = trainer(node)
    one.do(node.job(1))
    assert not (node.folder(1) / "inner" / "residual").exists()
