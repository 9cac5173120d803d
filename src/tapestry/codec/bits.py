"""Small unsigned numbers packed into bytes, lowest bit first.

m: how many numbers; w: their width in bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tapestry.codec.sizes import BYTE, packed_bytes


def pack(numbers: Tensor, width: int) -> Tensor:
    """Bytes, uint8, of numbers (m,) below 2^w.

    Above 8 bits the low bytes come first, then the rest of each number.
    """
    if width > BYTE:
        return torch.cat([pack(numbers & 255, BYTE), pack(numbers >> BYTE, width - BYTE)])
    if width == 0:
        return torch.empty(0, dtype=torch.uint8, device=numbers.device)
    if width == BYTE:
        return numbers.to(torch.uint8)
    if BYTE % width == 0:
        return _pack_in_bytes(numbers, width)
    lanes = torch.nn.functional.pad(numbers.long(), (0, -numbers.numel() % BYTE)).view(-1, BYTE)
    word = lanes[:, 0].clone(memory_format=torch.contiguous_format)
    for place in range(1, BYTE):
        word |= lanes[:, place] << (place * width)
    octets = word.view(torch.uint8).view(-1, BYTE)[:, :width].reshape(-1)
    return octets[: packed_bytes(numbers.numel(), width)]


def _pack_in_bytes(numbers: Tensor, width: int) -> Tensor:
    """Of numbers of which several fill one byte."""
    each = BYTE // width
    lanes = torch.nn.functional.pad(numbers.to(torch.uint8), (0, -numbers.numel() % each)).view(-1, each)
    octets = lanes[:, 0].clone(memory_format=torch.contiguous_format)
    for place in range(1, each):
        octets |= lanes[:, place] << (place * width)
    return octets


def unpack(octets: Tensor, count: int, width: int) -> Tensor:
    """The `count` numbers, int64, that `pack` wrote. The unused bits of the last byte are not looked at."""
    if width > BYTE:
        low = unpack(octets[:count], count, BYTE)
        return low | unpack(octets[count:], count, width - BYTE) << BYTE
    if width == 0:
        return torch.zeros(count, dtype=torch.int64, device=octets.device)
    if width == BYTE:
        return octets[:count].long()
    if BYTE % width == 0:
        places = torch.arange(0, BYTE, width, dtype=torch.uint8, device=octets.device)
        return (octets.view(-1, 1) >> places & ((1 << width) - 1)).view(-1)[:count].long()
    padded = torch.nn.functional.pad(octets, (0, -octets.numel() % width)).view(-1, width)
    words = torch.zeros(padded.shape[0], BYTE, dtype=torch.uint8, device=octets.device)
    words[:, :width] = padded
    places = torch.arange(0, BYTE * width, width, device=octets.device)
    return (words.view(torch.int64) >> places & ((1 << width) - 1)).view(-1)[:count]


def spare_bits_are_zero(octets: Tensor, count: int, width: int) -> bool:
    """Whether the last byte of `count` packed numbers has no bit set behind the last number."""
    if width > BYTE:
        return spare_bits_are_zero(octets[count:], count, width - BYTE)
    used = count * width % BYTE
    return used == 0 or int(octets[packed_bytes(count, width) - 1].item()) >> used == 0
