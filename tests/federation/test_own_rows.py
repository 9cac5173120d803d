"""A run whose members tell of their own tokens alone, with real trainers, merges and witnesses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tapestry.core.service import Core
from tapestry.node.home import Home
from tapestry.node.memory import Memory
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.layout import Layout
from tapestry.protocol.plan import Inner, Merge
from tapestry.tensors import shards
from tests.federation.support import Federation

EMBEDDING = "model.embed_tokens.weight"


def embedding(federation: Federation, state: str) -> Tensor:
    """Of the base of a state."""
    with Core.open(federation.core) as core:
        layout = Layout.from_bytes(core.store.read(federation.plan.layout))
        base = Artifact.from_bytes(core.store.read(State.from_bytes(core.store.read(state)).base))
        found = {}
        for shard, blob in zip(layout.shards, base.shards, strict=True):
            values = shards.values(shard, bytearray(core.store.read(blob.sha256)))
            for piece in shard.pieces:
                if piece.tensor.name == EMBEDDING:
                    found[piece.row_start] = values[piece.values].view(piece.shape).clone()
    return torch.cat([found[start] for start in sorted(found)])


@pytest.mark.long
@pytest.mark.parametrize("rows", ["own", "all"])
def test_a_row_that_nobody_has_stays_where_it_was(tmp_path: Path, rows: str) -> None:
    """The control: where all rows are told of, every one moves."""
    inner = Inner(
        steps=4, sequence_length=32, batch_sequences=2, learning_rate=3e-3, warmup_steps=2, rows=rows
    )  # type: ignore[arg-type]
    merge = Merge(embedding_rows="users")
    federation = Federation(
        tmp_path, seed_blobs=tmp_path / "seed", rounds=2, steps=4, nodes=3, inner=inner, merge=merge
    )
    try:
        federation.start()
        federation.keep_going(timeout_s=240)
    finally:
        federation.stop()
    head = federation.view().head
    assert (head.merges, head.witnessed) == (2, True)
    for name in federation.names:
        memory = Memory(Home(federation.node(name)))["run"].head
        assert memory is not None and memory.state == head.state, "each has repeated the merges"
    before, after = (embedding(federation, state) for state in (federation.plan.initial_state, head.state))
    moved = {int(row) for row in (before != after).any(dim=1).nonzero()}
    texts = [(tmp_path / "texts" / name / "train.txt").read_bytes() for name in federation.names]
    assert moved == ({*b"".join(texts), 256} if rows == "own" else set(range(257)))
