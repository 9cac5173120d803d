"""Shard bytes ↔ tensors: round trips, safetensors reads them, anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import torch

from tapestry.errors import ArtifactError
from tapestry.protocol.layout import Layout
from tapestry.tensors import shards
from tests.replay import cases

LAYOUT: Layout = cases.layout_of()


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in cases.random_values(LAYOUT, seed).items()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.equal(
        a.reshape(-1).view(torch.int32), b.reshape(-1).view(torch.int32)
    )


def test_round_trip() -> None:
    whole = tensors()
    blobs = [shards.pack(shard, whole) for shard in LAYOUT.shards]
    assert len(blobs) > 3
    back = {name: torch.full_like(tensor, 7.0) for name, tensor in whole.items()}
    for shard, blob in zip(LAYOUT.shards, blobs, strict=True):
        rows = shards.unpack(shard, bytes(blob))
        for piece in shard.pieces:
            name = piece.tensor.name
            (back[name][piece.row_start : piece.row_stop] if piece.tensor.shape else back[name]).copy_(
                rows[name]
            )
        flat = torch.cat([rows[piece.tensor.name].reshape(-1) for piece in shard.pieces])
        assert same(shards.values(shard, bytes(blob)), flat)
    assert all(same(back[name], whole[name]) for name in whole)


def test_safetensors_reads_a_shard() -> None:
    whole = tensors()
    for shard in LAYOUT.shards:
        blob = shards.pack(shard, whole)
        theirs = safetensors.numpy.load(bytes(blob))
        ours = shards.unpack(shard, blob)
        assert set(theirs) == set(ours)
        for piece in shard.pieces:
            name = piece.tensor.name
            assert np.array_equal(theirs[name], ours[name].numpy(), equal_nan=True)
            rows = whole[name][piece.row_start : piece.row_stop] if piece.tensor.shape else whole[name]
            assert same(ours[name], rows)


def test_unpack_shares_writable_memory_and_copies_the_rest() -> None:
    shard = LAYOUT.shards[0]
    blob = shards.pack(shard, tensors())
    shards.unpack(shard, blob)["a.scalar"].fill_(5.0)
    assert shards.unpack(shard, blob)["a.scalar"].item() == 5.0
    frozen = bytes(blob)
    shards.unpack(shard, frozen)["a.scalar"].fill_(6.0)
    assert shards.unpack(shard, memoryview(frozen))["a.scalar"].item() == 5.0


def test_strided_and_trained_tensors_can_be_packed() -> None:
    whole = tensors()
    expected = [shards.pack(shard, whole) for shard in LAYOUT.shards]
    whole["c.split"] = torch.nn.Parameter(whole["c.split"].t().contiguous().t())
    assert [shards.pack(shard, whole) for shard in LAYOUT.shards] == expected


def test_what_does_not_fit_the_layout_is_refused() -> None:
    shard = LAYOUT.shards[0]
    for name, tensor, match in (
        ("a.scalar", None, "not there"),
        ("a.scalar", torch.zeros(1), "its layout says"),
        ("a.scalar", torch.zeros((), dtype=torch.float64), "float64"),
    ):
        whole = {k: v for k, v in tensors().items() if k != name} | ({} if tensor is None else {name: tensor})
        with pytest.raises(ArtifactError, match=match):
            shards.pack(shard, whole)
    blob = shards.pack(shard, tensors())
    for bad, match in (
        (blob[:-1], "bytes"),
        (blob + b"x", "bytes"),
        (b"", "bytes"),
        (b"\xff" * 8 + blob[8:], "header"),
        (blob.replace(b"F32", b"F64"), "header"),
    ):
        with pytest.raises(ArtifactError, match=match):
            shards.unpack(shard, bad)
