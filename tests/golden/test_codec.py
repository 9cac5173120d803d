"""Encoded shards, frozen in codec.json: their bytes, and digests of what they decode to.
`TAPESTRY_REWRITE_GOLDEN=1` writes them anew: other values from the same bytes mean that members of one run
would no longer agree, so docs/formats/delta.md needs a new version."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tapestry.codec.shards import ShardCodec, add_
from tapestry.protocol.encoding import Bf16, Codec, Fp4, Int8, TopK
from tapestry.protocol.layout import Layout, Tensor

FILE = Path(__file__).with_name("codec.json")
LAYOUT = Layout(
    shard_bytes=1 << 16,
    tensors=(
        Tensor(name="a.wte.weight", shape=(70, 40)),
        Tensor(name="b.weight", shape=(130, 70)),
        Tensor(name="c.norm", shape=(300,)),
        Tensor(name="d.scalar", shape=()),
    ),
)
FEW, NEAR = TopK(keep=64, bits=2), TopK(keep=20, side=32, bits=3, levels="nearest")
CODECS = {
    "sparse": Codec(matrices=FEW, embeddings=FEW, norms=FEW),
    "nearest": Codec(matrices=NEAR, embeddings=NEAR, norms=NEAR),
    "fp4": Codec(matrices=Fp4(), embeddings=Fp4(), norms=Fp4()),
    "mixed": Codec(matrices=Int8(), embeddings=Bf16(), norms=Fp4()),
}


def frozen(index: int, count: int) -> torch.Tensor:
    """Values from SHA-256 alone: signed 16-bit integers times 2^-20, so that sums of them are exact."""
    stream = b"".join(hashlib.sha256(f"{index}/{i}".encode()).digest() for i in range(-(-count // 16)))
    whole = np.frombuffer(stream, "<i2")[:count].astype(np.float32)
    return torch.from_numpy(np.ldexp(whole, -20).astype(np.float32))


def run(codec: Codec, blobs: list[bytes] | None = None) -> dict[str, Any]:
    """What values become; of `blobs`, where given, what they hold."""
    made, held = [], []
    for shard in LAYOUT.shards:
        values = frozen(shard.index, shard.elements)
        blob = blobs[shard.index] if blobs else ShardCodec(codec).encode_(shard, values)
        sent = torch.zeros(shard.elements)
        add_(ShardCodec(codec).decode(shard, blob), sent)
        made.append(zlib.compress(blob, 9).hex())
        held.append(hashlib.sha256(sent.numpy().tobytes()).hexdigest())
    return {"layout": LAYOUT.digest, "blobs": made, "values": held}


@pytest.mark.parametrize("name", CODECS)
def test_shards_are_the_frozen_ones(name: str) -> None:
    made = run(CODECS[name])
    frozen_file: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("TAPESTRY_REWRITE_GOLDEN"):
        FILE.write_text(json.dumps({**frozen_file, name: made}, indent=1, sort_keys=True) + "\n")
        return
    kept = frozen_file[name]
    blobs = [zlib.decompress(bytes.fromhex(each)) for each in kept["blobs"]]
    assert run(CODECS[name], blobs)["values"] == kept["values"], "the same bytes mean other values"
    assert made["values"] == kept["values"], "other values are sent"
    assert made["layout"] == kept["layout"]
