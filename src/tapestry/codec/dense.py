"""`fp32` and `bf16`: every value, whole or by its upper half."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from tapestry.codec.blocks import Shape
from tapestry.codec.contract import Cursor, Dense, Encoding, as_bytes, from_bytes
from tapestry.errors import ArtifactError
from tapestry.tensors.flat import is_finite


class Whole(Encoding):
    """Values of one number type.

    Args:
        dtype: `torch.float32` or `torch.bfloat16`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def encode_(self, values: Tensor, shape: Shape) -> Tensor:
        most = torch.finfo(self._dtype).max  # a larger value would become infinite
        sent = values.clamp(-most, most).to(self._dtype)
        values.sub_(sent)
        return as_bytes(sent)

    def decode(self, cursor: Cursor, shape: Shape) -> Dense:
        values = from_bytes(cursor.take(prod(shape) * self._dtype.itemsize), self._dtype).float()
        if not is_finite(values):
            raise ArtifactError("an encoded delta holds NaN or infinite values")
        return Dense(values)
