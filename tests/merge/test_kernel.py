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


def same_as_reference(
    rows: list[list[float]], units: int, outer: kernel.Outer, name: str, number: int = 1
) -> None:
    base, momentum, *deltas = (np.array(row, dtype=np.float32) for row in rows)
    weights = [units, WEIGHT_ONE - units]
    with np.errstate(all="ignore"):
        expected = reference.merge_values(
            base,
            momentum,
            deltas,
            weights,
            outer=name,
            rate=outer.rate,
            mu=outer.momentum,
            refresh=outer.refresh or 1,
            number=number,
        )
    made = run(base, momentum, deltas, weights, outer)
    finite = np.isfinite(expected[0])
    assert bits(made[0].numpy()[finite]) == bits(expected[0][finite])
    assert bits(made[1].numpy()[finite]) == bits(expected[1][finite])
    assert (np.isfinite(made[0].numpy()) == finite).all()


@given(rows=ROWS, units=st.integers(0, WEIGHT_ONE), rate=st.floats(1e-9, 10), mu=st.floats(0, 0.999))
def test_equals_the_reference(rows: list[list[float]], units: int, rate: float, mu: float) -> None:
    for outer, name in (
        (kernel.Outer.nesterov(rate=rate, momentum=mu), "nesterov"),
        (kernel.Outer.sgd(rate=rate), "sgd"),
        (kernel.Outer.fedavg(), "fedavg"),
    ):
        same_as_reference(rows, units, outer, name)


@given(
    rows=ROWS,
    units=st.integers(0, WEIGHT_ONE),
    rate=st.floats(1e-9, 10),
    mu=st.floats(0, 0.999),
    refresh=st.sampled_from([1, 2, 3, 4, 7, 4096]),
)
def test_delayed_equals_the_reference(
    rows: list[list[float]], units: int, rate: float, mu: float, refresh: int
) -> None:
    for number in (1, refresh, refresh + 1):
        outer = kernel.Outer.delayed(
            rate=rate, momentum=mu, refresh=refresh, is_refresh=number % refresh == 0
        )
        same_as_reference(rows, units, outer, "delayed", number)


def test_delayed_is_the_algorithm_of_the_paper() -> None:
    """In binary64: momentum m and the sum of what arrived apart, and the mean of N arrivals makes m."""
    rng = np.random.default_rng(0)
    every, mu, rate = 3, 0.9, 0.7
    gradients = rng.standard_normal((9, 50)).astype(np.float32)
    theta, m, arrived = (np.zeros(50) for _ in range(3))
    base, momentum = torch.zeros(50), torch.zeros(50)
    work = kernel.scratch()
    for number, gradient in enumerate(gradients, start=1):
        arrived += gradient
        if number % every == 0:
            m = mu * m + arrived / every
            theta -= rate * (mu * m + gradient / every)
            arrived[:] = 0
        else:
            theta -= rate * gradient / every
        is_refresh = number % every == 0
        outer = kernel.Outer.delayed(rate=rate, momentum=mu, refresh=every, is_refresh=is_refresh)
        given = torch.tensor(gradient)
        kernel.step(base, momentum, given, outer, work)
        assert (given.numpy() == gradient).all(), "the gradient is not written to"
        np.testing.assert_allclose(base.numpy(), theta, atol=1e-5)
        np.testing.assert_allclose(momentum.numpy(), mu * m + arrived / every, atol=1e-5)


def test_delayed_in_every_merge_is_nesterov_but_for_rounding() -> None:
    rng = np.random.default_rng(0)
    work = kernel.scratch()
    delayed = kernel.Outer.delayed(rate=0.7, momentum=0.9, refresh=1, is_refresh=True)
    nesterov = kernel.Outer.nesterov(rate=0.7, momentum=0.9)
    (base, u), (other, v) = ([torch.zeros(50), torch.zeros(50)] for _ in range(2))
    for _ in range(5):
        gradient = torch.tensor(rng.standard_normal(50, dtype=np.float32))
        kernel.step(base, u, gradient.clone(), delayed, work)
        kernel.step(other, v, gradient, nesterov, work)
    np.testing.assert_allclose(base, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(u, 0.9 * v, rtol=1e-5, atol=1e-6)


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
    delayed = kernel.Outer.delayed(rate=0.7, momentum=0.9, refresh=3, is_refresh=True)
    for outer, name in ((kernel.Outer.nesterov(rate=0.7, momentum=0.9), "nesterov"), (delayed, "delayed")):
        expected = reference.merge_values(
            base, momentum, deltas, units, outer=name, rate=0.7, mu=0.9, refresh=3, number=3
        )
        made = run(base, momentum, deltas, units, outer)
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
