"""`topk`: the largest values of each block, few bits each, their numbers as Elias and Fano write them.

Shape legend: m values are sent of a piece; B blocks of v values, at most k sent of each.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tapestry.codec import bits, sizes
from tapestry.codec.blocks import Group, Shape, cut
from tapestry.codec.contract import Cursor, Encoding, Sparse, as_bytes, from_bytes
from tapestry.codec.select import largest
from tapestry.codec.sizes import BYTE, packed_bytes
from tapestry.errors import ArtifactError
from tapestry.tensors.flat import is_finite

_SIGMAS = 6.0
"""The bins cover this many standard deviations (SparseLoCo, arXiv 2508.15706)."""
_ROUNDS = 3
_AT_ONCE = 1 << 18
"""Values selected from at a time: 1 MiB, so that the steps meet them in a core's cache."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is sent of one group: block and number of each value, in ascending order."""

    group: Group
    block: Tensor
    number: Tensor


class TopK(Encoding):
    """Args:
    keep: values sent of a full block.
    side: a full block has side · side values.
    width: bits a value.
    levels: how values are put into bins: by `sigma`, as published, or `nearest` of levels found for them.
    """

    def __init__(
        self, *, keep: int, side: int, width: int, levels: Literal["sigma", "nearest"] = "sigma"
    ) -> None:
        self._keep, self._side, self._width, self._levels = keep, side, width, levels
        self._low = sizes.low_bits(keep, side)

    def encode_(self, values: Tensor, shape: Shape) -> Tensor:
        sent = [self._select(values, group) for group in cut(shape, self._side)]
        places = torch.cat([each.group.places(each.block, each.number) for each in sent])
        chosen = values[places]
        levels, codes, stays = self._quantize(chosen)
        if stays is not None:
            parts = torch.split(stays, [each.block.numel() for each in sent])
            sent = [
                _Sent(each.group, each.block[part], each.number[part])
                for each, part in zip(sent, parts, strict=True)
            ]
            places, codes, chosen = places[stays], codes[stays], chosen[stays]
        values.scatter_(0, places, chosen - levels[codes])
        numbers = torch.cat([each.number for each in sent])
        return torch.cat(
            [
                torch.frombuffer(bytearray(struct.pack("<H", levels.numel())), dtype=torch.uint8),
                as_bytes(levels),
                *(as_bytes(self._heads(each)) for each in sent),
                as_bytes(bits.pack(numbers & ((1 << self._low) - 1), self._low)),
                as_bytes(bits.pack(codes, self._width)),
            ]
        )

    def decode(self, cursor: Cursor, shape: Shape) -> Sparse:
        (count,) = struct.unpack("<H", cursor.take(2).numpy().tobytes())
        if count > 1 << self._width:
            raise ArtifactError(
                f"an encoded delta has {count} levels, {1 << self._width} at most are allowed"
            )
        levels = from_bytes(cursor.take(4 * count), torch.float32)
        ascending = bool((levels[1:] > levels[:-1]).all())
        if not ascending or not is_finite(levels) or bool((levels == 0).any()):
            raise ArtifactError("the levels of an encoded delta are not finite, not 0 and ascending")
        groups = cut(shape, self._side)
        heads = [self._read_heads(cursor, group) for group in groups]
        total = sum(block.numel() for block, _ in heads)
        lows = self._row(cursor, total, self._low)
        codes = self._row(cursor, total, self._width)
        used = torch.bincount(codes, minlength=count)
        if used.numel() > count or bool((used == 0).any()):
            raise ArtifactError("an encoded delta has a code without a level, or a level without a code")
        places = []
        for group, (block, high), low in zip(
            groups, heads, torch.split(lows, [block.numel() for block, _ in heads]), strict=True
        ):
            number = (high << self._low) | low
            place = block * group.values + number
            if bool((number >= group.values).any()) or bool((place[1:] <= place[:-1]).any()):
                raise ArtifactError(
                    "the places of an encoded delta are not ascending, or outside their block"
                )
            places.append(group.places(block, number))
        return Sparse(torch.cat(places), levels[codes])

    def _select(self, values: Tensor, group: Group) -> _Sent:
        blocks, numbers, first = [], [], 0
        most = sizes.most_sent(group, self._keep, self._side)
        parts = list(group.parts(_AT_ONCE))
        room = torch.empty(parts[0].blocks * group.values, device=values.device)
        for part in parts:
            magnitudes = room[: part.blocks * part.values]
            inside = part.view(values)
            torch.abs(inside, out=magnitudes.view(inside.shape))
            block, number = largest(magnitudes.view(part.blocks, part.values), most)
            blocks.append(block + first)
            numbers.append(number)
            first += part.blocks
        return _Sent(group, torch.cat(blocks), torch.cat(numbers))

    def _quantize(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Levels, the code of each value, and which values are sent; None for all."""
        bins = 1 << self._width
        exact = chosen.double()
        found = (_by_sigma if self._levels == "sigma" else _by_nearest)(exact, bins)
        held = torch.bincount(found, minlength=bins)
        level = (torch.bincount(found, weights=exact, minlength=bins) / held).float()  # NaN where empty
        levels = torch.unique(level[level.abs() > 0])
        code = torch.searchsorted(levels, level)
        lost = level == 0
        stays = ~lost[found] if bool(lost.any()) else None
        return levels, code[found], stays

    def _heads(self, sent: _Sent) -> Tensor:
        group, size = sent.group, sizes.head_bytes(sent.group, self._keep, self._side)
        at = _rank(sent.block, group.blocks).add_(sent.number >> self._low)
        heads = torch.zeros(group.blocks * size, dtype=torch.uint8, device=at.device)
        ones = (1 << (at & 7)).to(torch.uint8)
        return heads.index_add_(0, sent.block * size + (at >> 3), ones)  # no bit comes twice

    def _read_heads(self, cursor: Cursor, group: Group) -> tuple[Tensor, Tensor]:
        """Block and bucket of each value sent of a group, in ascending order."""
        size = sizes.head_bytes(group, self._keep, self._side)
        octets = cursor.take(group.blocks * size)
        places = torch.arange(BYTE, dtype=torch.uint8, device=octets.device)
        ones = (octets.view(-1, 1) >> places & 1).view(-1).nonzero().view(-1)
        block = ones // (size * BYTE)
        held = torch.bincount(block, minlength=group.blocks)
        bucket = ones - block * (size * BYTE) - _rank(block, group.blocks)
        within = bucket < sizes.buckets(group, self._keep, self._side)
        if bool((held > sizes.most_sent(group, self._keep, self._side)).any()) or not bool(within.all()):
            raise ArtifactError("a block of an encoded delta sends more values than the plan allows it")
        return block, bucket

    def _row(self, cursor: Cursor, count: int, width: int) -> Tensor:
        octets = cursor.take(packed_bytes(count, width))
        if not bits.spare_bits_are_zero(octets, count, width):
            raise ArtifactError("an encoded delta has bits set behind its last number")
        return bits.unpack(octets, count, width)


def _by_sigma(values: Tensor, bins: int) -> Tensor:
    """Bin of each fp64 value: its distance from the mean in steps of 6 sigma / bins."""
    if not values.numel():
        return values.long()
    mean = float(values.mean())
    step = float((values - mean).square_().mean().sqrt()) * (_SIGMAS / bins)
    place = (values - mean).div_(step) if step > 0.0 else torch.zeros_like(values)
    return place.add_(bins / 2).round_().clamp_(0, bins - 1).long()


def _by_nearest(values: Tensor, bins: int) -> Tensor:
    """Bin of each fp64 value: half of the bins for each sign, by magnitude; at first of equal width in the
    logarithm, then nearest to the mean of its bin (Lloyd, 1982), a few times."""
    if not values.numel():
        return values.long()
    half, size = bins // 2, values.abs()
    least, most = float(size.min()), float(size.max())
    if least == most:
        return (values > 0).long() * half
    place = ((size / least).log_() * (half / math.log(most / least))).long().clamp_(max=half - 1)
    for _ in range(_ROUNDS):
        held = torch.bincount(place, minlength=half)
        mean = torch.bincount(place, weights=size, minlength=half) / held
        mean = mean[held > 0]
        place = torch.bucketize(size, (mean[1:] + mean[:-1]) / 2)
    return place + (values > 0).long() * half


def _rank(block: Tensor, blocks: int) -> Tensor:
    """Of values in ascending order, which of its block each is, from 0."""
    held = torch.bincount(block, minlength=blocks)
    rank = torch.arange(block.numel(), device=block.device)
    return rank.sub_(torch.repeat_interleave(held.cumsum(0) - held, held))
