"""A delta in a few thousand numbers, from which the angle between two deltas can be told.

A count sketch (Charikar, Chen and Farach-Colton, 2002): every value is added to one of `BUCKETS` sums with a
sign of its own, so that the inner product of two sketches is that of the deltas, give or take |a| · |b| /
√BUCKETS. Which sum and which sign comes from a secret: whoever knew it could move a sketch anywhere with a
change of the delta that nobody would notice. Sketches are compared by whoever made them and by nobody else,
so no bit of them needs to be the same on another machine.

The values of a shard are taken in spans of `SPAN`. Each span reads its signs from one table, from a place of
its own on, and is moved by a distance of its own; then its values fall into the buckets in turn. `BUCKETS` is
a prime, so that the columns of a matrix do not fall into each other.

Shape legend: `values` are 1-D, fp32, of one piece of a shard; `start` is where it begins in the shard.
"""

from __future__ import annotations

from hashlib import shake_256
from typing import Final

import torch
from torch import Tensor

BUCKETS: Final = 4093
SPAN_BITS: Final = 16
SPAN: Final = 1 << SPAN_BITS
WIDTH: Final = (SPAN // BUCKETS + 2) * BUCKETS
"""Sums kept while values are added: a multiple of `BUCKETS` that holds a span, however far it is moved."""
TABLE: Final = 1 << 20
"""Signs in the table: 4 MiB, of which a span takes a sixteenth."""
SEED_BYTES: Final = 32
OWN_PART: Final = 0.05
_RIDGE: Final = 1e-6
"""Above the rounding of fp32 sketches: a delta that is exactly a sum of others has no precision matrix."""
_WORD: Final = 8


class Signs:
    """What a secret stands for: the table of signs, and where each span begins. 4 MiB.

    Args:
        seed: `SEED_BYTES` secret bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        octets = torch.frombuffer(bytearray(self._stream(b"signs", TABLE // 8)), dtype=torch.uint8)
        bits = octets.view(-1, 1) >> torch.arange(8, dtype=torch.uint8) & 1
        self.table = bits.view(-1).float().mul_(2).sub_(1)

    def spans(self, shard: int, count: int) -> tuple[Tensor, Tensor]:
        """Of the first `count` spans of a shard: where their signs begin, and how far they are moved;
        (count,), int64 each."""
        data = self._stream(b"spans" + shard.to_bytes(_WORD, "little"), 2 * _WORD * count)
        words = torch.frombuffer(bytearray(data), dtype=torch.int64).view(-1, 2)
        return torch.remainder(words[:, 0], TABLE - SPAN + 1), torch.remainder(words[:, 1], BUCKETS)

    def _stream(self, what: bytes, count: int) -> bytes:
        return shake_256(self._seed + what).digest(count)


class ShardSketch:
    """Of one shard, fed piece by piece; each value at most once.

    Args:
        signs: the secret.
        shard: its number in the layout.
        elements: values it has.
        scale: what each value is multiplied by. Values near the largest float need one far below 1.
    """

    def __init__(self, signs: Signs, shard: int, elements: int, scale: float = 1.0) -> None:
        starts = torch.arange(0, elements, SPAN)
        signs_at, moved = signs.spans(shard, starts.numel())
        self._table = signs.table
        # Added to a value's place in the shard, these give its sign's place and its sum's.
        self._to_sign, self._to_sum = signs_at - starts, moved - starts
        self._scale = scale
        self._sums = torch.zeros(WIDTH)

    def dense(self, start: int, values: Tensor) -> None:
        """Add every value of a piece."""
        at, end = start, start + values.numel()
        while at < end:
            span = at >> SPAN_BITS
            stop = min(end, (span + 1) << SPAN_BITS)
            to_sign, to_sum = int(self._to_sign[span]), int(self._to_sum[span])
            self._sums[at + to_sum : stop + to_sum].addcmul_(
                values[at - start : stop - start],
                self._table[at + to_sign : stop + to_sign],
                value=self._scale,
            )
            at = stop

    def sparse(self, start: int, places: Tensor, values: Tensor) -> None:
        """Add the values of a piece that stand at `places` (int64); the others are 0."""
        at = places + start
        span = at >> SPAN_BITS
        signs = self._table.index_select(0, at + self._to_sign.index_select(0, span))
        sums = at.add_(self._to_sum.index_select(0, span))
        self._sums.scatter_add_(0, sums, signs.mul_(values).mul_(self._scale))

    def sums(self) -> Tensor:
        """The shard's share of the delta's sketch: (`BUCKETS`,), fp64; infinite or NaN where sums were too
        large for fp32."""
        return self._sums.view(-1, BUCKETS).sum(0, dtype=torch.float64)


def unit(sums: Tensor) -> Tensor:
    """A sketch brought to length 1, fp32; 0 stays 0."""
    length = float(sums.norm())
    return (sums / length if length > 0.0 else sums).float()


def overlaps(delta: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How far a delta is like each of the updates of one round, from sketches of length 1.

    Args:
        delta: (`BUCKETS`,)
        others: (n, `BUCKETS`)

    Returns:
        (n,) fp64 each: the |cosine| with each; and what is left of it once the span of the n − 1 others is
        taken out of both, as the partial correlation. Honest updates are alike in what a round has in common;
        a copy is alike beyond that. 0 where less than `OWN_PART` of an update lies outside that span.
    """
    rows = torch.cat([others, delta[None]]).double()
    products = rows @ rows.T
    products.diagonal().add_(_RIDGE)
    precision = torch.linalg.inv(products)
    beyond = precision[:-1, -1].abs() / (precision.diagonal()[:-1] * precision[-1, -1]).sqrt()
    own_part = torch.linalg.inv(products[:-1, :-1]).diagonal().reciprocal()  # squared
    return products[:-1, -1].abs(), beyond.where(own_part > OWN_PART**2, torch.zeros(()).double())
