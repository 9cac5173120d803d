"""Sums that are the same on every machine: values added in halves, each addition one elementwise operation.

Shape legend: n values, flat; they are padded with zeros to the next power of two.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold(values: Tensor) -> float:
    """Sum of fp64 values (n,), in the order of docs/formats/merge.md: x ← x[:h] + x[h:] until one is left.

    `values` are overwritten.
    """
    count = values.numel()
    if count == 0:
        return 0.0
    half = 1 << (count - 1).bit_length() >> 1
    while half >= 1:
        behind = values.numel() - half
        if behind > 0:
            values[:behind] += values[half:]
        values = values[:half]
        half //= 2
    return float(values[0])


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two fp32 tensors (n,): products and sums in fp64, summed by `fold`."""
    return fold(a.to(torch.float64) * b)
