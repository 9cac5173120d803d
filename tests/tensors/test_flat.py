"""Views share memory, the delta's sign, finiteness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tapestry.errors import ArtifactError
from tapestry.tensors import flat


def test_a_view_shares_the_memory() -> None:
    buffer = bytearray(16)
    values = flat.view(buffer, elements=3, offset=4)
    values[0] = 1.0
    assert buffer[4:8] == b"\x00\x00\x80\x3f"
    assert flat.view(memoryview(buffer), elements=1, offset=4).item() == 1.0


def test_delta_is_base_minus_local() -> None:
    base, local = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 5.0])
    assert flat.delta(base, local).tolist() == [2.0, -4.0]
    out = torch.empty(2)
    assert flat.delta(base, local, out=out) is out
    assert (base - flat.delta(base, local)).tolist() == local.tolist()


def test_delta_refuses_other_types_and_shapes() -> None:
    with pytest.raises(ArtifactError, match="fp32"):
        flat.delta(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))
    with pytest.raises(ArtifactError, match="equal shapes"):
        flat.delta(torch.zeros(2), torch.zeros(1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 70_000, 139_999])
def test_not_finite_anywhere(bad: float, at: int) -> None:
    values = torch.randn(140_000)
    assert flat.is_finite(values)
    values[at] = bad
    assert not flat.is_finite(values)


def test_a_sum_that_overflows_is_finite_all_the_same() -> None:
    values = torch.full((1000,), 3e38)
    assert flat.is_finite(values)
    values[500:] = -3e38
    assert flat.is_finite(values)
    values[3] = float("-inf")
    assert not flat.is_finite(values)
