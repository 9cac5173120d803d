"""How a run's deltas are written: an encoding for each class of tensor. See docs/formats/delta.md."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from tapestry.codec import sizes
from tapestry.protocol.layout import ELEMENT_BYTES, Shard
from tapestry.protocol.message import Part


class Fp32(Part):
    """Every value as it is."""

    kind: Literal["fp32"] = "fp32"

    def most_bytes(self, shape: Sequence[int]) -> int:
        """The longest section of a piece of this shape."""
        return prod(shape) * ELEMENT_BYTES


class Bf16(Part):
    """The upper half of every value."""

    kind: Literal["bf16"] = "bf16"

    def most_bytes(self, shape: Sequence[int]) -> int:
        return prod(shape) * 2


class Int8(Part):
    """8 bits a value and a power of two for each 256."""

    kind: Literal["int8"] = "int8"

    def most_bytes(self, shape: Sequence[int]) -> int:
        return sizes.runs_bytes(shape, 8)


class Fp4(Part):
    """A sign and three bits of exponent a value, a power of two for each 256."""

    kind: Literal["fp4"] = "fp4"

    def most_bytes(self, shape: Sequence[int]) -> int:
        return sizes.runs_bytes(shape, 4)


class TopK(Part):
    """The largest values of each block, in few bits."""

    kind: Literal["topk"] = "topk"
    keep: Annotated[int, Field(ge=1, le=4096)] = 64
    """Values sent of a full block."""
    side: Literal[8, 16, 32, 64] = 64
    """A block of a matrix is side · side values; of a vector as many in a row."""
    bits: Annotated[int, Field(ge=2, le=8)] = 2
    """Of a value that is sent."""
    levels: Literal["sigma", "nearest"] = "sigma"
    """How values are rounded: by their standard deviation, as published, or to the nearest of levels found
    for them. A matter of the sender alone; whoever decodes need not know."""

    @model_validator(mode="after")
    def _keeps_part(self) -> TopK:
        if self.keep > self.side**2:
            raise ValueError(f"keep {self.keep} is more than the {self.side**2} values of a block")
        return self

    def most_bytes(self, shape: Sequence[int]) -> int:
        return sizes.topk_bytes(shape, self.keep, self.side, self.bits)


Encoding = Annotated[Fp32 | Bf16 | Int8 | Fp4 | TopK, Field(discriminator="kind")]
NamePart = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Codec(Part):
    """Which encoding each tensor of a delta has, and whether what is not sent is kept for later."""

    matrices: Encoding = Fp32()
    embeddings: Encoding = Fp32()
    norms: Encoding = Fp32()
    """Tensors of fewer than two dimensions."""
    embedding_names: Annotated[tuple[NamePart, ...], Field(max_length=64)] = (
        "embed_tokens",
        "lm_head",
        "wte",
        "wpe",
        "embed_in",
        "embed_out",
        "shared",
    )
    """A tensor with one of these between the dots of its name is an embedding."""
    error_feedback: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """What was not sent is added to the next delta, times this (SparseLoCo's β: 0.95). None: it is lost."""

    @property
    def plain(self) -> bool:
        """Whether deltas are not encoded at all."""
        return all(each.kind == "fp32" for each in (self.matrices, self.embeddings, self.norms))

    def named(self, name: str, shape: tuple[int, ...]) -> Encoding:
        """The encoding of a tensor."""
        of_class: Encoding = getattr(self, self.class_of(name, shape))
        return of_class

    def class_of(self, name: str, shape: tuple[int, ...]) -> Literal["matrices", "embeddings", "norms"]:
        """Which of the three a tensor is."""
        if len(shape) < 2:
            return "norms"
        return "embeddings" if self.is_embedding(name) else "matrices"

    def is_embedding(self, name: str) -> bool:
        """Whether a tensor of this name, with two axes or more, holds a row for each token."""
        return not set(self.embedding_names).isdisjoint(name.split("."))

    def most_bytes(self, shard: Shard) -> int:
        """The largest blob that a shard of a delta can be."""
        if self.plain:
            return shard.total_bytes
        return len(sizes.MAGIC) + sum(
            self.named(piece.tensor.name, piece.tensor.shape).most_bytes(piece.shape)
            for piece in shard.pieces
        )

    def head(self, shard: Shard) -> bytes:
        """The first bytes of every blob that a shard of a delta can be."""
        return shard.header if self.plain else sizes.MAGIC

    @model_validator(mode="after")
    def _feedback_has_a_use(self) -> Codec:
        if self.error_feedback is not None and self.plain:
            raise ValueError("error_feedback is of use only where some class is not sent as fp32")
        return self


PLAIN = Codec()
"""Deltas as they are."""
