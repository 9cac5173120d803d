"""`int8` and `fp4`: numbers of few bits times a power of two for each run of 256.

Shape legend: R runs; a piece is padded with zeros to (R, 256).
"""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import torch
from torch import Tensor

from tapestry.codec import bits
from tapestry.codec.blocks import Shape
from tapestry.codec.contract import Cursor, Dense, Encoding, as_bytes
from tapestry.codec.sizes import BYTE, RUN, packed_bytes
from tapestry.errors import ArtifactError

BIAS = 127
"""Of a binary32's exponent."""
_MANTISSA_BITS = 23


AT_ONCE = 1 << 16
"""Values worked on at a time, so that the steps meet them in a core's cache; a multiple of a run."""


class _Runs(Encoding):
    """What both have in common: a byte of exponent a run, then codes of `width` bits."""

    width: int

    @abstractmethod
    def _encode(self, runs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exponents (R, 1), codes and values of what is sent (R, 256)."""

    @abstractmethod
    def _decode(self, exponents: Tensor, codes: Tensor) -> tuple[Tensor, bool]:
        """Values, and whether they are written as they must be."""

    def encode_(self, values: Tensor, shape: Shape) -> Tensor:
        exponents, octets = [], []
        for part in torch.split(values, AT_ONCE):
            exponent, codes, sent = self._encode(_cut(part))
            part.sub_(sent.view(-1)[: part.numel()])
            exponents.append(exponent.to(torch.uint8).view(-1))
            octets.append(bits.pack(codes.view(-1)[: part.numel()], self.width))
        return as_bytes(torch.cat([*exponents, *octets]))

    def decode(self, cursor: Cursor, shape: Shape) -> Dense:
        count = prod(shape)
        every = cursor.take(-(-count // RUN)).to(torch.int32).view(-1, 1)
        octets = cursor.take(packed_bytes(count, self.width))
        if not bits.spare_bits_are_zero(octets, count, self.width):
            raise ArtifactError("an encoded delta has bits set behind its last code")
        values = torch.empty(count, device=octets.device)
        parts = zip(
            torch.split(values, AT_ONCE),
            torch.split(every, AT_ONCE // RUN),
            torch.split(octets, AT_ONCE * self.width // BYTE),
            strict=True,
        )
        for part, exponents, packed in parts:
            codes = _cut(bits.unpack(packed, part.numel(), self.width).to(torch.int32))
            found, canonical = self._decode(exponents, codes)
            if not canonical:
                raise ArtifactError(f"a run of {self.width} bits in an encoded delta is not canonical")
            part.copy_(found.view(-1)[: part.numel()])
        return Dense(values)


class Int8(_Runs):
    """Whole numbers from −127 to 127 times 2^(E−127)."""

    width = 8

    def _encode(self, runs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, least = torch.frexp(runs.abs().amax(1, keepdim=True))  # |x| < 2^least
        exponents = (least.to(torch.int32) + (BIAS - 7)).clamp_(min=1)
        codes = runs.mul(_power(2 * BIAS - exponents)).round_().clamp_(-127, 127)
        exponents = torch.where(codes.any(1, keepdim=True), exponents, 0)
        return exponents, codes.to(torch.int32) & 255, codes * _power(exponents)

    def _decode(self, exponents: Tensor, codes: Tensor) -> tuple[Tensor, bool]:
        codes = codes - ((codes & 128) << 1)
        largest = codes.abs().amax(1, keepdim=True)
        due = torch.where(exponents > 1, 64, exponents)  # the least that the largest code may be
        fits = (exponents <= 248) & (largest >= due) & (largest <= torch.where(exponents > 0, 127, 0))
        return codes * _power(exponents), bool(fits.all())


class Fp4(_Runs):
    """A sign and three bits of exponent: 0 and ± seven powers of two, the largest 2^(E−127)."""

    width = 4

    def _encode(self, runs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole = runs.view(torch.int32)
        magnitude = whole & 0x7FFFFFFF
        rounded = (magnitude + (1 << (_MANTISSA_BITS - 1))) >> _MANTISSA_BITS
        exponents = rounded.amax(1, keepdim=True).clamp_(max=254)
        exponents = torch.where(exponents >= 8, exponents, 0)
        level = rounded.sub_(exponents - 7).clamp_(max=7)
        half = (magnitude >> _MANTISSA_BITS) >= exponents - 7  # at least half of the smallest level
        level = torch.where(level >= 1, level, half.to(torch.int32)).mul_((exponents > 0).to(torch.int32))
        codes = level | (((whole >> 28) & 8) * (level > 0))
        return exponents, codes, _powers_of(exponents, codes)

    def _decode(self, exponents: Tensor, codes: Tensor) -> tuple[Tensor, bool]:
        largest = (codes & 7).amax(1, keepdim=True)
        used = (exponents >= 8) & (exponents <= 254) & (largest == 7)
        fits = torch.where(exponents > 0, used, largest == 0)
        return _powers_of(exponents, codes), bool(fits.all()) and not bool((codes == 8).any())


def _cut(values: Tensor) -> Tensor:
    """As (R, 256), padded with zeros."""
    rest = -values.numel() % RUN
    return (torch.nn.functional.pad(values, (0, rest)) if rest else values).view(-1, RUN)


def _power(biased: Tensor) -> Tensor:
    """2^(E−127) of exponents 1 … 254; 0 of exponent 0."""
    return (biased << _MANTISSA_BITS).view(torch.float32)


def _powers_of(exponents: Tensor, codes: Tensor) -> Tensor:
    """Values of fp4 codes: the bits of a binary32 put together."""
    level = codes & 7
    magnitude = ((exponents - 7 + level) << _MANTISSA_BITS).mul_((level > 0).to(torch.int32))
    return (magnitude | ((codes & 8) << 28)).view(torch.float32)
