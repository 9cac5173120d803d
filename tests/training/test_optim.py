from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from tapestry.protocol.plan import Inner, Stage
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


MUON = INNER.model_copy(update={"optimizer": "muon", "weight_decay": 0.0})


def layers() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {
        "model.embed_tokens.weight": nn.Parameter(torch.randn(9, 4)),
        "model.layers.0.mlp.weight": nn.Parameter(torch.randn(6, 4)),
        "model.norm.weight": nn.Parameter(torch.randn(4)),
    }


def test_muon_moves_matrices_along_an_orthogonal_direction() -> None:
    """Each step of a matrix has singular values near each other (Newton-Schulz leaves 0.7 to 1.2), of AdamW's
    size; embeddings and norms go by AdamW, as with it alone."""
    one, other = InnerOptimizer(layers(), MUON), InnerOptimizer(layers(), INNER)
    before = {name: p.detach().clone() for name, p in one.parameters.items()}
    for optimizer in (one, other):
        for p in optimizer.parameters.values():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        optimizer.step(0.01)
    moved = before["model.layers.0.mlp.weight"] - one.parameters["model.layers.0.mlp.weight"].detach()
    values = torch.linalg.svdvals(moved) / (0.01 * 0.2 * 6**0.5)
    assert values.min() > 0.6 and values.max() < 1.3
    assert torch.equal(one.parameters["model.norm.weight"], other.parameters["model.norm.weight"])
    names = {name.partition(".")[0] for name in one.state()}
    assert names == {"exp_avg", "exp_avg_sq", "momentum_buffer"}
    assert "momentum_buffer.model.embed_tokens.weight" not in one.state()


def test_muon_goes_on_to_the_same_bits() -> None:
    one = InnerOptimizer(layers(), MUON)
    move(one, 6)
    two = InnerOptimizer(layers(), MUON)
    move(two, 3)
    again = InnerOptimizer({n: nn.Parameter(p.detach().clone()) for n, p in two.parameters.items()}, MUON)
    for name, value in again.begin_at(two.steps).items():
        value.copy_(two.state()[name])
    move(again, 3, start=3)
    assert all(torch.equal(one.parameters[n], again.parameters[n]) for n in one.parameters)
    assert one.steps == again.steps == 6


def test_stages_and_paces() -> None:
    inner = Inner(
        steps=10,
        schedule=(Stage(after_merges=2, steps=20), Stage(after_merges=5, steps=4)),
        paces={"slow": 0.25},
    )
    steps = [inner.steps_at(merges) for merges in range(8)]
    assert steps == [10, 10, 20, 20, 20, 4, 4, 4]
    assert [inner.steps_before(merges) for merges in range(9)] == [sum(steps[:n]) for n in range(9)]
    assert inner.steps_at(0, "slow") == 2 and inner.steps_at(5, "slow") == 1
    assert inner.steps_at(0, "fast") == 10 and inner.tokens_in(3) == 3 * 8 * 256
