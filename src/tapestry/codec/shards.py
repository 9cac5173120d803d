"""Encoded shards: one section a piece, each by the encoding of its tensor's class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from tapestry.codec.blocks import Shape
from tapestry.codec.contract import Cursor, Decoded, Dense, Encoding
from tapestry.codec.dense import Whole
from tapestry.codec.runs import Fp4, Int8
from tapestry.codec.sizes import MAGIC
from tapestry.codec.topk import TopK
from tapestry.errors import ArtifactError
from tapestry.tensors.flat import ReadBuffer
from tapestry.tensors.shards import LogicalTensor, ShardLike


class Plain(Protocol):
    """Settings of an encoding that has none but its kind."""

    @property
    def kind(self) -> Literal["fp32", "bf16", "int8", "fp4"]: ...


class Few(Protocol):
    """Settings of `topk`."""

    @property
    def kind(self) -> Literal["topk"]: ...
    @property
    def keep(self) -> int: ...
    @property
    def side(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def levels(self) -> Literal["sigma", "nearest"]: ...


EncodingSettings = Plain | Few


@dataclass(frozen=True, slots=True)
class Section:
    """What a decoded piece holds."""

    values: slice
    """Where the piece's values stand in its shard."""
    decoded: Decoded
    tensor: str
    """Name of the tensor it is of."""


def make(settings: EncodingSettings) -> Encoding:
    """The encoding that settings name."""
    match settings.kind:
        case "fp32":
            return Whole(torch.float32)
        case "bf16":
            return Whole(torch.bfloat16)
        case "int8":
            return Int8()
        case "fp4":
            return Fp4()
        case "topk":
            return TopK(keep=settings.keep, side=settings.side, width=settings.bits, levels=settings.levels)


class Settings(Protocol):
    """A plan's codec: which encoding a tensor of this name and shape has."""

    def named(self, name: str, shape: Shape) -> EncodingSettings: ...


class ShardCodec:
    """Writes and reads encoded shards.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def encode_(self, shard: ShardLike, values: Tensor) -> bytes:
        """The encoded shard; `values`, all of a shard, flat and finite, become what was not sent."""
        parts = [torch.frombuffer(bytearray(MAGIC), dtype=torch.uint8)]
        for piece in shard.pieces:
            inside = values[piece.values]
            parts.append(self._encoding(piece.tensor).encode_(inside, tuple(piece.shape)))
        return torch.cat(parts).numpy().tobytes()

    def decode(self, shard: ShardLike, blob: ReadBuffer) -> Sequence[Section]:
        """What a shard holds. Raises `ArtifactError` unless it is what `encode_` writes for such a shard."""
        view = memoryview(blob)
        if view[: len(MAGIC)] != MAGIC:
            raise ArtifactError(f"shard {shard.index} does not begin as an encoded delta does")
        # torch warns of read-only memory, which is not written here
        cursor = Cursor(
            torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8), len(MAGIC)
        )
        sections = []
        try:
            for piece in shard.pieces:
                shape = tuple(piece.shape)
                decoded = self._encoding(piece.tensor).decode(cursor, shape)
                sections.append(Section(piece.values, decoded, piece.tensor.name))
        except ArtifactError as e:
            raise ArtifactError(f"shard {shard.index}: {e.message}", hint=e.hint) from e
        if cursor.left:
            raise ArtifactError(f"shard {shard.index} has {cursor.left} bytes behind its last section")
        return sections

    def _encoding(self, tensor: LogicalTensor) -> Encoding:
        return make(self._settings.named(tensor.name, tuple(tensor.shape)))


def add_(sections: Sequence[Section], values: Tensor) -> None:
    """values ← values + what was sent; `values` are all of the shard."""
    for section in sections:
        decoded = section.decoded
        if isinstance(decoded, Dense):
            values[section.values] += decoded.values
        else:
            values[section.values][decoded.places] += decoded.values
