"""Shards of deltas, plain and encoded: an accepted one is the only encoding of its values."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import torch

from tapestry.codec import sizes
from tapestry.codec.blocks import cut
from tapestry.codec.contract import Dense, Sparse
from tapestry.codec.shards import ShardCodec
from tapestry.codec.sizes import MAGIC
from tapestry.errors import ArtifactError
from tapestry.protocol.encoding import Codec, TopK
from tapestry.tensors import shards
from tapestry.tensors.flat import is_finite
from tests.fuzz import made
from tests.fuzz.mutate import floats, octets
from tests.fuzz.target import Parser, Target


def written(codec: Codec, sections: Sequence[object]) -> bytes:
    """The encoding of decoded sections; of `topk` by a writer of its own, as encoding chooses levels."""
    parts = [MAGIC]
    for piece, section in zip(made.SHARD.pieces, sections, strict=True):
        settings = codec.named(piece.tensor.name, piece.tensor.shape)
        decoded = section.decoded  # type: ignore[attr-defined]
        if isinstance(decoded, Sparse):
            assert isinstance(settings, TopK)
            parts.append(topk(settings, decoded, tuple(piece.shape)))
            continue
        assert isinstance(decoded, Dense)
        match settings.kind:
            case "fp32":
                parts.append(decoded.values.numpy().tobytes())
            case "bf16":
                whole = decoded.values.view(torch.int32) >> 16
                parts.append(whole.to(torch.int16).numpy().tobytes())
            case _:
                from tapestry.codec.shards import make

                parts.append(
                    make(settings).encode_(decoded.values.clone(), tuple(piece.shape)).numpy().tobytes()
                )
    return b"".join(parts)


def topk(settings: TopK, decoded: Sparse, shape: tuple[int, ...]) -> bytes:
    """docs/formats/delta.md, written with Python's integers as rows of bits."""
    keep, side, width = settings.keep, settings.side, settings.bits
    low = sizes.low_bits(keep, side)
    held = dict(zip(decoded.places.tolist(), decoded.values.tolist(), strict=True))
    assert len(held) == decoded.places.numel(), "a place twice"
    levels = sorted(set(held.values()))
    code = {level: number for number, level in enumerate(levels)}
    head, numbers, codes = b"", [], []
    for group in cut(shape, side):
        size = sizes.head_bytes(group, keep, side)
        count = torch.arange(group.values)
        for block in range(group.blocks):
            places = group.places(torch.full_like(count, block), count).tolist()
            sent = [number for number, place in enumerate(places) if place in held]
            bits = sum(1 << rank + (number >> low) for rank, number in enumerate(sent))
            head += bits.to_bytes(size, "little")
            numbers += [number & (1 << low) - 1 for number in sent]
            codes += [code[held[places[number]]] for number in sent]
    start = struct.pack(f"<H{len(levels)}f", len(levels), *levels)
    return start + head + _row(numbers, low) + _row(codes, width)


def _row(numbers: Sequence[int], width: int) -> bytes:
    if width > 8:
        return _row([n & 255 for n in numbers], 8) + _row([n >> 8 for n in numbers], width - 8)
    bits = sum(number << at * width for at, number in enumerate(numbers))
    return bits.to_bytes(-(-len(numbers) * width // 8), "little")


def _mutate(random: Random, seed: bytes, seeds: Sequence[bytes]) -> bytes:
    """Fields that the format has, then anything."""
    data, kind = bytearray(seed), random.randrange(10)
    start = len(MAGIC) if seed.startswith(MAGIC) else len(made.SHARD.header)
    if kind < 2:
        for _ in range(random.choice((1, 1, 2, 9))):
            at = random.randrange(start, len(data))
            data[at] ^= 1 << random.randrange(8)
        return bytes(data)
    if kind == 2:
        floats(random, data, start + random.choice((0, 2)))
        return bytes(data)
    if kind == 3:  # a count of levels
        at = random.choice((start, random.randrange(start, len(data))))
        data[at : at + 2] = struct.pack("<H", random.choice((0, 1, 3, 4, 5, 255, 256, 257, 65535)))
        return bytes(data)
    if kind == 4:  # the tail of another shard: sections of the right form with the wrong head
        other = random.choice(seeds)
        at = random.randrange(start, min(len(data), len(other)))
        return bytes(data[:at]) + other[at:]
    if kind == 5:  # values or codes change places
        one, two = (random.randrange(start, len(data)) for _ in range(2))
        data[one], data[two] = data[two], data[one]
        return bytes(data)
    if kind == 6:  # within the last sections: codes and low parts
        at = random.randrange(max(start, len(data) - 64), len(data))
        data[at] = random.randrange(256)
        return bytes(data)
    if kind == 7:
        return bytes(data) + random.choice((b"\x00", bytes(8), random.randbytes(3)))
    return octets(random, seed, seeds)


def _target(name: str, codec: Codec) -> Target:
    reader = None if codec.plain else ShardCodec(codec)

    def call(data: bytes) -> bytes:
        if len(data) > codec.most_bytes(made.SHARD):  # what a manifest is refused for
            raise ArtifactError("larger than the codec writes")
        if reader is not None:
            sections = reader.decode(made.SHARD, data)
            for section in sections:
                assert is_finite(section.decoded.values)
            return written(codec, sections)
        values = shards.values(made.SHARD, data)
        if not is_finite(values):
            raise ArtifactError("not finite")
        return made.SHARD.header + values.numpy().tobytes()

    def opened() -> Parser:
        return Parser(seeds=[made.encoded(name, seed) for seed in range(6)], call=call)

    return Target(name=f"delta-{name}", open=opened, mutate=_mutate)


TARGETS = tuple(_target(name, codec) for name, codec in made.CODECS.items())
