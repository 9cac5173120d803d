from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.codec.select import largest


def by_sorting(magnitudes: torch.Tensor, k: int) -> list[tuple[int, int]]:
    """The definition: larger first, of equal ones the lower number; zeros never."""
    found = []
    for block, row in enumerate(magnitudes.tolist()):
        order = sorted(range(len(row)), key=lambda number: (-row[number], number))[:k]
        found += [(block, number) for number in sorted(order) if row[number] > 0]
    return found


def pairs(found: tuple[torch.Tensor, torch.Tensor]) -> list[tuple[int, int]]:
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))


@given(
    seed=st.integers(0, 1 << 30),
    blocks=st.integers(1, 5),
    size=st.sampled_from([1, 7, 64, 256, 1024]),
    k=st.integers(1, 80),
    steps=st.sampled_from([1, 3, 50, 1 << 20]),
    zeros=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
def test_it_is_what_sorting_finds(
    seed: int, blocks: int, size: int, k: int, steps: int, zeros: float
) -> None:
    """Few steps make many equal values, many zeros leave less than k of them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(1, steps + 1, (blocks, size), generator=generator).float()
    values[torch.rand(blocks, size, generator=generator) < zeros] = 0.0
    k = min(k, size)
    assert pairs(largest(values, k)) == by_sorting(values, k)


@pytest.mark.parametrize("k", [1, 64, 200])
def test_blocks_of_real_size(k: int) -> None:
    values = torch.randn(40, 4096, generator=torch.Generator().manual_seed(k)).abs()
    values[3] = 1.0
    values[5, 100:] = 0.0
    assert pairs(largest(values, k)) == by_sorting(values, k)
