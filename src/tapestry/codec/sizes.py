"""How many bytes an encoded piece takes at most; no torch, so that a core can check sizes without it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tapestry.codec.blocks import Group, cut

MAGIC = b"TPDELTA\x01"
"""Every encoded shard begins so."""
BYTE = 8
RUN = 256
"""Values that share an exponent in `int8` and `fp4`."""


def packed_bytes(count: int, width: int) -> int:
    """Bytes that `count` numbers of `width` bits take; those above 8 bits are split in two."""
    if width > BYTE:
        return count + packed_bytes(count, width - BYTE)
    return -(-count * width // BYTE)


def runs_bytes(shape: Sequence[int], width: int) -> int:
    """Of a piece in runs: a byte each, and `width` bits a value."""
    count = prod(shape)
    return -(-count // RUN) + packed_bytes(count, width)


def low_bits(keep: int, side: int) -> int:
    """Bits of a value's number that are written as they are."""
    return (side * side // keep).bit_length() - 1


def most_sent(group: Group, keep: int, side: int) -> int:
    """Values of one block that `topk` sends at most."""
    return max(1, -(-keep * group.values // (side * side)))


def buckets(group: Group, keep: int, side: int) -> int:
    """Values the upper part of a number can have."""
    return -(-group.values // (1 << low_bits(keep, side)))


def head_bytes(group: Group, keep: int, side: int) -> int:
    """Of one block."""
    return packed_bytes(most_sent(group, keep, side) + buckets(group, keep, side), 1)


def topk_bytes(shape: Sequence[int], keep: int, side: int, width: int) -> int:
    """Of a piece that sends all it may."""
    sent = heads = 0
    for group in cut(tuple(shape), side):
        sent += group.blocks * most_sent(group, keep, side)
        heads += group.blocks * head_bytes(group, keep, side)
    levels = min(1 << width, sent)
    return 2 + 4 * levels + heads + packed_bytes(sent, low_bits(keep, side)) + packed_bytes(sent, width)
