from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.codec import bits
from tapestry.codec.sizes import packed_bytes
from tests.codec.reference import Bits

WIDTHS = st.integers(0, 16)


@given(st.data(), WIDTHS, st.integers(0, 70))
def test_numbers_come_back(data: st.DataObject, width: int, count: int) -> None:
    numbers = data.draw(st.lists(st.integers(0, (1 << width) - 1), min_size=count, max_size=count))
    packed = bits.pack(torch.tensor(numbers, dtype=torch.int64), width)
    assert packed.numel() == packed_bytes(count, width)
    assert bits.unpack(packed, count, width).tolist() == numbers
    assert bits.spare_bits_are_zero(packed, count, width)
    assert Bits(packed.numpy().tobytes()).row(count, width) == numbers


@given(WIDTHS, st.integers(1, 70))
def test_a_spare_bit_is_seen(width: int, count: int) -> None:
    spare = -(count * (width - 8 if width > 8 else width)) % 8
    packed = bits.pack(torch.zeros(count, dtype=torch.int64), width)
    if packed.numel():
        packed[-1] = 0x80
        assert bits.spare_bits_are_zero(packed, count, width) == (spare == 0)
