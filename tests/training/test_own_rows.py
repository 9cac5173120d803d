"""Rows of embeddings whose token a node's text lacks are left out of its delta, where the plan says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.protocol.artifact import Artifact
from tapestry.protocol.encoding import PLAIN
from tapestry.protocol.layout import MIN_SHARD_BYTES, Layout, Tensor
from tapestry.protocol.plan import Inner
from tapestry.tensors import shards
from tapestry.training.own_rows import OwnRows

from .support import Node
from .test_trainer import make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")
EMBEDDING = "model.embed_tokens.weight"


def moved(root: Path, **inner: Any) -> tuple[set[int], set[int]]:
    """Rows of the embedding that a round's delta says anything of, and bytes of the text."""
    node = Node.make(root / "home", **inner)
    make_trainer(node).do(node.job(1, evaluate=False))
    delta = Artifact.from_bytes((node.folder(1) / "delta.json").read_bytes())
    found: set[int] = set()
    for shard, blob in zip(node.layout.shards, delta.shards, strict=True):
        values = shards.values(shard, bytearray((node.folder(1) / blob.sha256).read_bytes()))
        for piece in shard.pieces:
            part = values[piece.values].view(piece.shape)
            if piece.tensor.name == EMBEDDING:
                found |= {piece.row_start + int(row) for row in part.any(dim=1).nonzero()}
            else:
                assert part.any()
    lines = (node.root / "corpus" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return found, {byte for line in lines for byte in json.loads(line)["text"].encode()}


def test_only_rows_of_its_own_tokens_are_sent(tmp_path: Path) -> None:
    found, tokens = moved(tmp_path, rows="own")
    assert found == tokens | {256}, "and the end of a document"
    assert len(found) < 128


def test_the_control_all_rows_are_sent(tmp_path: Path) -> None:
    found, _ = moved(tmp_path)
    assert len(found) == 257


def test_a_plan_that_does_not_say_is_the_one_it_was() -> None:
    plain = Inner(steps=1)
    assert "rows" not in plain.model_dump(mode="json")
    assert Inner(steps=1, rows="all") == plain


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 199), min_size=1), st.integers(16, 40))
def test_it_is_right_however_an_embedding_is_cut(tokens: set[int], wide: int) -> None:
    layout = Layout(
        shard_bytes=MIN_SHARD_BYTES,
        tensors=(
            Tensor(name="model.embed_tokens.weight", shape=(200, wide)),
            Tensor(name="model.layers.0.mlp.up_proj.weight", shape=(200, wide)),
            Tensor(name="model.norm.weight", shape=(wide,)),
        ),
    )
    assert len(layout.shards) > 4
    own = OwnRows(torch.tensor(sorted(tokens)), PLAIN.is_embedding)
    rows: list[np.ndarray] = []
    for shard in layout.shards:
        values = torch.ones(shard.elements)
        own.keep(shard, values)
        for piece in shard.pieces:
            part = values[piece.values].view(piece.shape)
            if piece.tensor.name == EMBEDDING:
                rows.append(part.numpy())
            else:
                assert part.all()
    whole = np.concatenate(rows)
    assert {int(row) for row in np.flatnonzero(whole.all(axis=1))} == tokens
    assert {int(row) for row in np.flatnonzero(whole.any(axis=1))} == tokens
