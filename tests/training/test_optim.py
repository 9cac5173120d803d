from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from tapestry.protocol.plan import Inner
from tapestry.training.optim import InnerOptimizer, learning_rate

INNER = Inner(steps=10, learning_rate=1.0, warmup_steps=4, final_fraction=0.1)


def test_the_schedule_warms_up_and_ends_at_its_fraction() -> None:
    rates = [learning_rate(INNER, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.25, rel=0.01)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[4:]))
    assert learning_rate(INNER, 200, 100) == pytest.approx(0.1)
    assert learning_rate(INNER.model_copy(update={"warmup_steps": 0}), 0, 1) == 1.0


def parameters() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {"a": nn.Parameter(torch.randn(3, 4)), "b": nn.Parameter(torch.randn(4))}


def move(optimizer: InnerOptimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        loss = sum((p.sin() * (step + 1)).sum() for p in optimizer.parameters.values())
        torch.autograd.backward(loss)
        optimizer.step(0.01)


def test_a_loaded_state_goes_on_to_the_same_bits() -> None:
    one = InnerOptimizer(parameters(), INNER)
    move(one, 6)
    two = InnerOptimizer(parameters(), INNER)
    move(two, 3)
    again = InnerOptimizer({n: nn.Parameter(p.detach().clone()) for n, p in two.parameters.items()}, INNER)
    assert again.state() == {} and again.steps == 0
    for name, value in again.begin_at(two.steps).items():
        value.copy_(two.state()[name])
    move(again, 3, start=3)
    assert all(torch.equal(one.parameters[n], again.parameters[n]) for n in one.parameters)
    assert all(torch.equal(value, again.state()[name]) for name, value in one.state().items())
    assert one.steps == again.steps == 6


def test_only_matrices_decay() -> None:
    optimizer = InnerOptimizer(parameters(), INNER.model_copy(update={"weight_decay": 0.5}))
    before = {name: p.detach().clone() for name, p in optimizer.parameters.items()}
    for p in optimizer.parameters.values():
        p.grad = torch.zeros_like(p)
    optimizer.step(0.1)
    assert torch.equal(optimizer.parameters["b"], before["b"])
    assert torch.allclose(optimizer.parameters["a"], before["a"] * 0.95)
