"""What every encoding does, and what a decoded piece looks like.

Shape legend: a piece's `values` are flat, fp32, row-major; `shape` is the piece's own shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from tapestry.codec.blocks import Shape
from tapestry.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Dense:
    """Every value of a piece."""

    values: Tensor


@dataclass(frozen=True, slots=True)
class Sparse:
    """The values of a piece that are not +0: where they stand (int64, each once) and what they are."""

    places: Tensor
    values: Tensor


Decoded = Dense | Sparse


class Cursor:
    """Reads a blob from front to back. Raises `ArtifactError` where it ends too early."""

    def __init__(self, octets: Tensor, at: int = 0) -> None:
        self._octets = octets
        self.at = at

    def take(self, count: int) -> Tensor:
        """The next `count` bytes; shares their memory."""
        if count > self._octets.numel() - self.at:
            raise ArtifactError(f"an encoded delta ends early: {count} bytes are due at byte {self.at}")
        self.at += count
        return self._octets[self.at - count : self.at]

    @property
    def left(self) -> int:
        return self._octets.numel() - self.at


class Encoding(ABC):
    """Turns the values of a piece into a section of bytes and back.

    `decode(encode_(x))` is what is sent of x, and no other bytes decode to that.
    """

    @abstractmethod
    def encode_(self, values: Tensor, shape: Shape) -> Tensor:
        """The section, uint8 on the CPU. `values`, which are finite, become what was not sent: x − sent."""

    @abstractmethod
    def decode(self, cursor: Cursor, shape: Shape) -> Decoded:
        """Read a section. Raises `ArtifactError` for anything that `encode_` cannot have written."""


def as_bytes(values: Tensor) -> Tensor:
    """The memory of a contiguous tensor as uint8 on the CPU."""
    return values.cpu().view(torch.uint8).view(-1)


def from_bytes(octets: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes, at any address, as numbers of another type; a copy."""
    return octets.clone().view(dtype)
