from __future__ import annotations

import pytest
import torch

from tapestry.codec.contract import Sparse
from tapestry.codec.shards import ShardCodec, add_
from tapestry.codec.sizes import MAGIC
from tapestry.errors import ArtifactError
from tapestry.protocol.encoding import Codec, Fp4, Fp32, Int8, TopK
from tapestry.protocol.layout import Layout, Tensor

LAYOUT = Layout(
    shard_bytes=1 << 15,
    tensors=(
        Tensor(name="a.wte.weight", shape=(100, 30)),
        Tensor(name="b.weight", shape=(200, 70)),
        Tensor(name="c.norm", shape=(70,)),
    ),
)
CODEC = Codec(matrices=TopK(), embeddings=Int8(), norms=Fp32(), error_feedback=0.5)


def test_shards_together_are_the_tensors() -> None:
    codec = ShardCodec(CODEC)
    assert len(LAYOUT.shards) > 1
    for shard in LAYOUT.shards:
        values = torch.randn(shard.elements)
        rest = values.clone()
        blob = codec.encode_(shard, rest)
        assert len(blob) <= CODEC.most_bytes(shard) and blob.startswith(MAGIC)
        sections = codec.decode(shard, blob)
        assert [isinstance(section.decoded, Sparse) for section in sections] == [
            piece.tensor.name == "b.weight" for piece in shard.pieces
        ]
        back = torch.zeros_like(values)
        add_(sections, back)
        assert torch.equal(rest, values - back)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_it_runs_where_the_values_are(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator")
    shard = LAYOUT.shards[0]
    values = torch.randn(shard.elements)
    moved = values.to(device, copy=True)
    blob = ShardCodec(CODEC).encode_(shard, moved)
    rest = values.clone()
    assert ShardCodec(CODEC).encode_(shard, rest) == blob
    assert torch.equal(moved.cpu(), rest)


def test_blocks_do_not_depend_on_where_shards_are_cut() -> None:
    """The same values are chosen of a tensor in one shard and of one in many."""
    tensor = (Tensor(name="b.weight", shape=(500, 70)),)
    few = Codec(matrices=TopK())
    values = torch.randn(500 * 70)

    def places(shard_bytes: int) -> list[int]:
        found, start = [], 0
        for shard in Layout(shard_bytes=shard_bytes, tensors=tensor).shards:
            part = values[start : start + shard.elements].clone()
            (section,) = ShardCodec(few).decode(shard, ShardCodec(few).encode_(shard, part))
            assert isinstance(section.decoded, Sparse)
            found += [start + place for place in section.decoded.places.tolist()]
            start += shard.elements
        return sorted(found)

    assert places(1 << 20) == places(1 << 15)


def test_what_is_no_encoded_shard() -> None:
    shard = LAYOUT.shards[-1]
    blob = ShardCodec(CODEC).encode_(shard, torch.randn(shard.elements))
    for bad, said in [
        (b"", "does not begin"),
        (b"TPDELTA\x02" + blob[8:], "does not begin"),
        (blob[:-1], "ends early"),
        (blob + b"\0", "1 bytes behind"),
    ]:
        with pytest.raises(ArtifactError, match=said):
            ShardCodec(CODEC).decode(shard, bad)
    other = Codec(matrices=Fp4(), embeddings=Int8(), norms=Fp32())
    with pytest.raises(ArtifactError):
        ShardCodec(other).decode(shard, blob)
