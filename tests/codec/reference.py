"""docs/formats/delta.md, read by plain Python and numpy: one value at a time, no code of `src/`.

Shape legend: a piece is a list of values with its shape; a section is bytes.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

RUN = 256


class Bits:
    """Reads numbers of few bits, lowest first."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, width: int) -> int:
        found = 0
        for place in range(width):
            found |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << place
            self.at += 1
        return found

    def row(self, count: int, width: int) -> list[int]:
        """`count` numbers, from a byte on to the end of a byte."""
        if width > 8:
            low = self.row(count, 8)
            return [a | b << 8 for a, b in zip(low, self.row(count, width - 8), strict=True)]
        found = [self.take(width) for _ in range(count)]
        while self.at % 8:
            assert self.take(1) == 0, "spare bit"
        return found


def blocks(shape: tuple[int, ...], side: int) -> Iterator[list[int]]:
    """Places of each block's values in the piece, block by block in the section's order."""
    if len(shape) >= 2:
        rows, width, tall, wide = shape[0], math.prod(shape[1:]), side, side
    else:
        rows, width, tall, wide = 1, math.prod(shape), 1, side * side
    for bottom in (False, True):
        for right in (False, True):
            for top in range(0, rows, tall):
                for left in range(0, width, wide):
                    cut = (top + tall > rows, left + wide > width)
                    if cut == (bottom, right):
                        yield [
                            row * width + column
                            for row in range(top, min(top + tall, rows))
                            for column in range(left, min(left + wide, width))
                        ]


def decode(settings: dict[str, Any], data: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Values of a section at the head of `data`, and where it ends. `AssertionError`, `IndexError` and
    `struct.error` where it is not canonical."""
    count = math.prod(shape)
    kind = settings["kind"]
    if kind == "fp32":
        assert len(data) >= 4 * count
        values = np.frombuffer(data[: 4 * count], "<f4")
        assert np.isfinite(values).all()
        return values, 4 * count
    if kind == "bf16":
        assert len(data) >= 2 * count
        upper = np.frombuffer(data[: 2 * count], "<u2").astype(np.uint32)
        values = (upper << np.uint32(16)).view(np.float32)
        assert np.isfinite(values).all()
        return values, 2 * count
    return _topk(settings, data, shape) if kind == "topk" else _runs(kind, data, count)


def _runs(kind: str, data: bytes, count: int) -> tuple[np.ndarray, int]:
    width = 8 if kind == "int8" else 4
    runs = -(-count // RUN)
    bits = Bits(data[runs:])
    codes = bits.row(count, width)
    values: list[float] = []
    for number in range(runs):
        e, mine = data[number], codes[number * RUN : (number + 1) * RUN]
        if kind == "int8":
            mine = [code - 256 if code > 127 else code for code in mine]
            largest = max(map(abs, mine))
            assert e <= 248 and largest <= 127
            assert largest >= 64 if e > 1 else largest >= e
            assert e or not largest
            values += [math.ldexp(code, e - 127) for code in mine]
        else:
            assert 8 not in mine
            assert (8 <= e <= 254 and 7 in [code & 7 for code in mine]) if e else not any(mine)
            for code in mine:
                size = math.ldexp(1.0, e - 127 - 7 + (code & 7)) if code & 7 else 0.0
                values.append(-size if code & 8 else size)
    return np.array(values, np.float32), runs + bits.at // 8


def _topk(settings: dict[str, Any], data: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    keep, side, width = settings["keep"], settings["side"], settings["bits"]
    low = int(math.log2(side * side // keep))
    (count,) = struct.unpack_from("<H", data)
    levels = struct.unpack_from(f"<{count}f", data, 2)
    assert count <= 1 << width
    assert all(math.isfinite(level) and level != 0.0 for level in levels)
    assert all(a < b for a, b in itertools.pairwise(levels))
    bits = Bits(data[2 + 4 * count :])
    found: list[tuple[list[int], int]] = []
    for places in blocks(shape, side):
        most = max(1, math.ceil(keep * len(places) / side**2))
        buckets = math.ceil(len(places) / 2**low)
        ones = [at for at, bit in enumerate(bits.row(8 * math.ceil((most + buckets) / 8), 1)) if bit]
        assert len(ones) <= most
        for rank, at in enumerate(ones):
            assert at - rank < buckets
            found.append((places, at - rank << low))
    lows = bits.row(len(found), low)
    codes = bits.row(len(found), width)
    assert sorted(set(codes)) == list(range(count))
    values = np.zeros(math.prod(shape), np.float32)
    before: tuple[int, int] = (-1, -1)
    for (places, high), rest, code in zip(found, lows, codes, strict=True):
        at = (id(places), high | rest)
        assert at[0] != before[0] or at[1] > before[1]
        values[places[at[1]]] = levels[code]
        before = at
    return values, 2 + 4 * count + bits.at // 8
