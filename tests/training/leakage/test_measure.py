"""The attacks find what a model has learned by heart, and nothing in one that never saw the text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tapestry.codec.shards import ShardCodec
from tapestry.errors import ArtifactError
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.encoding import PLAIN, Codec, TopK
from tapestry.storage.blobs import BlobStore
from tapestry.tensors import shards
from tapestry.training.leakage import measure
from tapestry.training.leakage.measure import Canary
from tapestry.training.loaded import Loaded
from tapestry.training.model import initial_state
from tapestry.training.optim import InnerOptimizer
from tests.training.support import CONFIG, Node

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 48
WORD = "0123456789abcdef"


@pytest.fixture
def made(tmp_path: Path) -> tuple[BlobStore, Loaded, State]:
    """A model of two fragments, its base in memory."""
    store = BlobStore.open(tmp_path / "blobs")
    model, _, state, _ = initial_state("run", CONFIG, "byte", 7, 1 << 14, store, fragments=2)
    loaded = Loaded.read(store, model.digest)
    loaded.load_base(store, state.base)
    return store, loaded, state


def letters(seed: int, windows: int) -> np.ndarray:
    """(windows, LENGTH + 1) ids of random letters: nothing in them can be learned but by heart."""
    return np.random.default_rng(seed).integers(97, 123, (windows, LENGTH + 1))


def learn(loaded: Loaded, rows: np.ndarray, steps: int) -> None:
    inner = Node.make_plan(loaded.model, loaded.layout, _state(loaded), 1, learning_rate=1e-2).inner
    optimizer = InnerOptimizer(loaded.parameters, inner)
    batch = torch.from_numpy(rows)
    for _ in range(steps):
        logits = loaded.module(input_ids=batch[:, :-1], use_cache=False).logits
        torch.autograd.backward(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
        optimizer.step(1e-2)


def _state(loaded: Loaded) -> State:
    return State(run="run", model=loaded.digest, merges=0, base="0" * 64, outer=None)


def both(loaded: Loaded, members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return measure.losses(loaded.module, members), measure.losses(loaded.module, others)


def test_what_was_learned_by_heart_is_found_and_what_was_never_seen_is_not(
    made: tuple[BlobStore, Loaded, State],
) -> None:
    _, loaded, _ = made
    members, others, never = letters(1, 24), letters(2, 450), letters(3, 200)
    reference = both(loaded, members, others)
    beside = both(loaded, never, others)
    learn(loaded, members, 150)
    found = measure.infer(both(loaded, members, others), reference, bytes=LENGTH)
    assert found.true_positives.value > 0.9 and found.true_positives.low > 0.5
    assert found.area.value > 0.99
    assert found.blind.holds(0.5)
    assert found.gain_members > found.gain_non_members + 0.5
    control = measure.infer(both(loaded, never, others), beside)
    assert control.true_positives.holds(0.01)
    assert control.area.holds(0.5)


def test_texts_that_differ_anyway_are_told_by_the_blind_figure(made: tuple[BlobStore, Loaded, State]) -> None:
    """A model that saw neither may tell them apart, and a figure is worth nothing then."""
    _, loaded, _ = made
    learn(loaded, letters(9, 24), 30)
    digits = np.random.default_rng(4).integers(48, 58, (200, LENGTH + 1))
    found = measure.infer(both(loaded, letters(1, 50), digits), both(loaded, letters(1, 50), digits))
    assert found.blind.low > 0.9
    assert found.area.value == 0.5, "the score itself is the difference of two equal losses"


def test_losses_are_those_of_training(made: tuple[BlobStore, Loaded, State]) -> None:
    _, loaded, _ = made
    rows = letters(1, 6)
    batch = torch.from_numpy(rows)
    with torch.no_grad():
        logits = loaded.module(input_ids=batch[:, :-1], use_cache=False).logits
        whole = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
    heard: list[int] = []
    found = measure.losses(loaded.module, rows, told=heard.append)
    assert found.sum() == pytest.approx(float(whole), rel=1e-5) and sum(heard) == 6
    assert measure.losses(loaded.module, rows, 3).tolist() == pytest.approx(
        found.reshape(2, 3).sum(axis=1).tolist()
    )
    assert loaded.module.training
    assert len(measure.losses(loaded.module, rows[:0])) == 0


def test_a_canary_that_was_learned_stands_out(made: tuple[BlobStore, Loaded, State]) -> None:
    _, loaded, _ = made
    draw = random.Random(3)
    lines = [Canary(f"marker{n:02} ", "".join(draw.choices(WORD, k=16))) for n in range(12)]
    before = measure.exposure(loaded.module, loaded.tokenizer, lines, WORD, 63)
    rows = np.stack([[256, *(line.prefix + line.secret).encode()] for line in lines[:6]])
    learn(loaded, rows, 150)
    after = measure.exposure(loaded.module, loaded.tokenizer, lines, WORD, 63)
    assert before.mean() < 3
    assert (after[:6] == 6).all(), "each ranks first of 64"
    assert after[6:].mean() < 3, "those that were not learned do not"


@pytest.mark.parametrize("codec", [PLAIN, Codec(matrices=TopK(keep=32), embeddings=TopK(keep=32))])
def test_the_senders_model_is_base_less_update(made: tuple[BlobStore, Loaded, State], codec: Codec) -> None:
    store, loaded, state = made
    learn(loaded, letters(1, 8), 3)
    local = {name: value.detach().clone() for name, value in loaded.parameters.items()}
    base = loaded.base(store, state.base)
    fragment = loaded.layout.fragment(1)
    blobs, sent = [], {}
    for shard, data in loaded.deltas(store, base, fragment.shards):
        values = shards.values(shard, data).clone()
        written = bytes(data)
        if not codec.plain:
            left = values.clone()
            written = ShardCodec(codec).encode_(shard, left)
            values -= left
        for piece in shard.pieces:
            part = values[piece.values].view(piece.shape)
            sent.setdefault(piece.tensor.name, []).append(part)
        blobs.append(Blob(sha256=store.put(written), bytes=len(written)))
    delta = Artifact(kind="delta", layout=loaded.layout.digest, shards=tuple(blobs))
    measure.take_local(loaded, store, base, delta, codec, 1)
    after = {name: value.detach().clone() for name, value in loaded.parameters.items()}
    loaded.take(store, base)
    assert sent
    for name, value in loaded.parameters.items():
        if name not in sent:
            assert torch.equal(after[name], value), f"{name} is of the other fragment"
            continue
        assert torch.equal(after[name], value.detach() - torch.cat(sent[name])), name
        if codec.plain:
            assert torch.allclose(after[name], local[name], atol=1e-6)
    with pytest.raises(ArtifactError):
        measure.take_local(loaded, store, base, delta, codec, 0)
