"""Scalars of the merge, rounded as docs/formats/merge.md says."""

from __future__ import annotations

import math
import struct

WEIGHT_ONE = 1 << 24
"""Weights are integers in units of 2^-24, so each is exact in fp32."""


def fp32(value: float) -> float:
    """`value` rounded to the nearest fp32 number, ties to even; infinite where it is too large for one."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def weight(units: int) -> float:
    """The fp32 value of a weight; exact."""
    if not 0 <= units <= WEIGHT_ONE:
        raise ValueError(f"weight {units} is not between 0 and {WEIGHT_ONE}")
    return units / WEIGHT_ONE
