"""What each contribution is multiplied with, where that depends on norms. Plain Python, fp64.

`math.sqrt` is correctly rounded (IEEE 754) and sums go in the order of the contributions, so every machine
gets the same. Shape legend: every list has one entry a contribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tapestry.merge.scalars import fp32, weight

SMALLEST = 2.0**-60
"""A norm below this counts as 0: such a contribution has no direction."""
CANCELLED = 2.0**-16
"""A weighted sum of directions shorter than this is rounding noise: they cancel each other out."""


def clips(squares: Sequence[float]) -> list[float]:
    """For each contribution min(1, median norm / its norm); 1 where its norm is 0.

    Args:
        squares: squared norms of whole contributions.
    """
    norms = [math.sqrt(square) for square in squares]
    ordered = sorted(norms)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return [median / norm if norm > median else 1.0 for norm in norms]


def mean(units: Sequence[int], clip: Sequence[float]) -> list[float]:
    """Factors of a weighted mean: weight times clip, rounded to fp32 once."""
    return [fp32(weight(each) * by) for each, by in zip(units, clip, strict=True)]


def unit(units: Sequence[int], squares: Sequence[float]) -> list[float]:
    """Factors of the weighted sum of directions: weight over norm, in fp32; 0 where there is no direction.

    Args:
        units: weights.
        squares: squared norms, of one tensor.
    """
    norms = [math.sqrt(square) for square in squares]
    return [fp32(weight(w) / norm) if norm >= SMALLEST else 0.0 for w, norm in zip(units, norms, strict=True)]


def rescaled(
    units: Sequence[int], clip: Sequence[float], squares: Sequence[float], square_of_sum: float
) -> list[float]:
    """Factors by which a tensor's merged gradient points where the weighted sum of directions does and is as
    long as the weighted mean of the norms (Decoupled DiLoCo, arXiv 2604.21428): near-orthogonal contributions
    shrink under a plain mean the more there are of them.

    Args:
        units: weights.
        clip: of each contribution.
        squares: squared norms, of the tensor.
        square_of_sum: squared norm of the sum by `unit`.

    Returns:
        in fp32; those of a plain mean where the directions cancel out.
    """
    if not square_of_sum >= CANCELLED**2:
        return mean(units, clip)
    length = 0.0
    for w, by, square in zip(units, clip, squares, strict=True):
        length += weight(w) * by * math.sqrt(square)
    scale = length / math.sqrt(square_of_sum)
    return [fp32(each * scale) for each in unit(units, squares)]
