"""Flat fp32 tensors: views of memory, differences, finiteness.

Shape legend: `flat` tensors are 1-D, fp32, contiguous.
"""

from __future__ import annotations

import sys
from math import isfinite

import torch
from torch import Tensor

from tapestry.errors import ArtifactError

if sys.byteorder != "little":
    raise ImportError("Tapestry's tensor formats are little-endian and are read in place")

Buffer = bytearray | memoryview
ReadBuffer = bytes | bytearray | memoryview

_CHECK_ELEMENTS = 1 << 16
"""Checked at a time, so that the exact look after an overflowing sum stays in cache."""


def view(buffer: Buffer, *, elements: int, offset: int = 0) -> Tensor:
    """`elements` fp32 values of a writable buffer from byte `offset` on, sharing its memory.

    The tensor keeps the buffer alive.
    """
    return torch.frombuffer(buffer, dtype=torch.float32, count=elements, offset=offset)


def delta(base: Tensor, local: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The pseudo-gradient **base − local**: what to subtract from the base to reach `local`.

    This is the only place where the sign is decided. Both are fp32 and of one shape.
    """
    if base.dtype != torch.float32 or local.dtype != torch.float32:
        raise ArtifactError(f"a delta is taken between fp32 tensors, not {base.dtype} and {local.dtype}")
    if base.shape != local.shape:
        raise ArtifactError(f"a delta needs equal shapes, not {tuple(base.shape)} and {tuple(local.shape)}")
    return torch.sub(base, local, out=out)


def is_finite(values: Tensor) -> bool:
    """Whether a flat tensor holds neither NaN nor an infinity.

    A sum is finite only if every element is; how it rounds does not matter. Where finite elements
    overflow their sum, the extremes decide.
    """
    for block in torch.split(values, _CHECK_ELEMENTS):
        if not isfinite(block.sum().item()):
            low, high = torch.aminmax(block)
            if not (isfinite(low.item()) and isfinite(high.item())):
                return False
    return True
