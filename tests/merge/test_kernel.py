"""Weighted sum and outer step, bit by bit."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.merge import kernel
from tapestry.merge.scalars import WEIGHT_ONE, fp32, weight
from tests.merge import reference

FORMAT = Path(__file__).parents[2] / "docs/formats/merge.md"
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
ROWS = st.integers(1, 40).flatmap(
    lambda n: st.lists(st.lists(FLOATS, min_size=n, max_size=n), min_size=4, max_size=4)
)


def bits(values: np.ndarray | torch.Tensor) -> list[int]:
    return np.asarray(values, dtype="<f4").reshape(-1).view("<u4").tolist()


def run(
    base: np.ndarray,
    momentum: np.ndarray,
    deltas: list[np.ndarray],
    units: list[int],
    outer: kernel.Outer,
) -> tuple[torch.Tensor, torch.Tensor]:
    work = kernel.scratch()
    b, v = torch.tensor(base), torch.tensor(momentum)
    total = torch.zeros_like(b)
    for delta, w in zip(deltas, units, strict=True):
        kernel.accumulate(total, torch.tensor(delta), weight(w), work)
    kernel.step(b, v if outer.keeps_momentum else None, total, outer, work)
    return b, v


@given(rows=ROWS, units=st.integers(0, WEIGHT_ONE), rate=st.floats(1e-9, 10), mu=st.floats(0, 0.999))
def test_equals_the_reference(rows: list[list[float]], units: int, rate: float, mu: float) -> None:
    base, momentum, *deltas = (np.array(row, dtype=np.float32) for row in rows)
    weights = [units, WEIGHT_ONE - units]
    for outer, name in (
        (kernel.Outer.nesterov(rate=rate, momentum=mu), "nesterov"),
        (kernel.Outer.sgd(rate=rate), "sgd"),
        (kernel.Outer.fedavg(), "fedavg"),
    ):
        with np.errstate(all="ignore"):
            expected = reference.merge_values(base, momentum, deltas, weights, outer=name, rate=rate, mu=mu)
        made = run(base, momentum, deltas, weights, outer)
        finite = np.isfinite(expected[0])
        assert bits(made[0].numpy()[finite]) == bits(expected[0][finite])
        assert bits(made[1].numpy()[finite]) == bits(expected[1][finite])
        assert (np.isfinite(made[0].numpy()) == finite).all()


def test_the_example_in_the_format() -> None:
    rows = re.findall(
        r"^\| (\S+?)(?:, w_\d = (\d+)| .*?)? \| \S+ \| 0x([0-9a-f]{8}) \|$", FORMAT.read_text(), re.M
    )
    table = {name: struct.unpack(">f", bytes.fromhex(raw))[0] for name, _, raw in rows if name != "θ'"}
    new = [raw for name, _, raw in rows if name == "θ'"]
    units = [int(w) for _, w, _ in rows if w]
    one = {name: np.array([value], dtype=np.float32) for name, value in table.items()}
    assert fp32(0.9) == table["μ"] and fp32(0.7) == table["λ"]
    deltas = [one["d_1"], one["d_2"]]
    base, momentum = run(one["θ"], one["v"], deltas, units, kernel.Outer.nesterov(rate=0.7, momentum=0.9))
    assert f"{bits(base)[0]:08x}" == new[0]
    assert bits(momentum) == bits(one["v'"])
    base, _ = run(one["θ"], one["v"], deltas, units, kernel.Outer.fedavg())
    assert f"{bits(base)[0]:08x}" == new[1]


def test_the_first_momentum_is_the_gradient_bit_for_bit() -> None:
    delta = np.array([0.0, -0.0, 1e-45, -1e-45, 5.0], dtype=np.float32)
    zero = np.zeros(5, dtype=np.float32)
    _, momentum = run(zero, zero, [delta], [WEIGHT_ONE], kernel.Outer.nesterov(rate=0.7, momentum=0.9))
    assert bits(momentum) == bits(np.array([0.0, 0.0, 1e-45, -1e-45, 5.0], dtype=np.float32))


@pytest.mark.parametrize("length", [1, kernel.BLOCK - 1, kernel.BLOCK, 2 * kernel.BLOCK + 5])
def test_blocks_change_nothing(length: int) -> None:
    rng = np.random.default_rng(length)
    base, momentum, *deltas = (rng.standard_normal(length, dtype=np.float32) for _ in range(5))
    units = [1, 5_000_000, WEIGHT_ONE - 5_000_001]
    expected = reference.merge_values(base, momentum, deltas, units, outer="nesterov", rate=0.7, mu=0.9)
    made = run(base, momentum, deltas, units, kernel.Outer.nesterov(rate=0.7, momentum=0.9))
    assert bits(made[0]) == bits(expected[0]) and bits(made[1]) == bits(expected[1])


def test_weights_are_exact() -> None:
    for units in (0, 1, WEIGHT_ONE // 3, WEIGHT_ONE - 1, WEIGHT_ONE):
        assert fp32(weight(units)) == weight(units)
    for units in (-1, WEIGHT_ONE + 1):
        with pytest.raises(ValueError, match="not between"):
            weight(units)


def test_misuse_is_refused() -> None:
    work, a = kernel.scratch(), torch.zeros(4)
    with pytest.raises(ValueError, match="one length"):
        kernel.accumulate(a, torch.zeros(5), 1, work)
    with pytest.raises(ValueError, match="momentum"):
        kernel.step(a, None, a, kernel.Outer.nesterov(rate=0.7, momentum=0.9), work)


@given(
    count=st.integers(1, 200),
    units=st.integers(0, WEIGHT_ONE),
    seed=st.integers(0, 1 << 20),
    sent=st.floats(0, 1),
)
def test_adding_at_places_is_adding_all(count: int, units: int, seed: int, sent: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** torch.randint(-45, 38, (count,), generator=generator)
    total = torch.zeros(count)
    kernel.accumulate(total, torch.randn(count, generator=generator) * scale, 0.5, kernel.scratch())
    places = (torch.rand(count, generator=generator) < sent).nonzero().view(-1)
    values = torch.randn(places.numel(), generator=generator)
    dense = torch.zeros(count)
    dense[places] = values
    expected = total.clone()
    kernel.accumulate(expected, dense, weight(units), kernel.scratch())
    kernel.accumulate_at(total, places, values, weight(units))
    assert bits(total.numpy()) == bits(expected.numpy())
