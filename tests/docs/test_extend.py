"""The code on the page for those who extend Tapestry runs, and holds what the page says is demanded."""

from __future__ import annotations

import re
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import ArtifactError
from tapestry.merge.average import Movers, Senders
from tapestry.training.batches import Order
from tapestry.training.task import CausalLM
from tests.codec import conformance
from tests.codec.conformance import SHAPES, STYLES, Subject

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guides" / "extend.md"


@cache
def code() -> dict[str, Any]:
    """What the page's Python, from top to bottom, defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {"__name__": "extend"}
    for block in blocks:
        exec(compile("from __future__ import annotations\n" + block, str(PAGE), "exec"), names)
    return names


def ternary() -> Subject:
    return Subject(
        encoding=code()["Ternary"](),
        most_bytes=code()["ternary_most_bytes"],
        reference=code()["read_ternary"],
    )


@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.sampled_from(STYLES), st.integers(0, 1 << 20))
def test_the_codec_sends_and_leaves_the_whole(shape: tuple[int, ...], style: str, seed: int) -> None:
    conformance.sent_and_left_make_the_whole(ternary(), shape, style, seed)


@settings(max_examples=40)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(STYLES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_the_codec_has_one_form(shape: tuple[int, ...], style: str, changes: list[tuple[float, int]]) -> None:
    conformance.other_bytes_say_something_else(ternary(), shape, style, changes)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_codec_refuses_what_is_cut_off(shape: tuple[int, ...]) -> None:
    conformance.cut_off_anywhere_is_refused(ternary(), shape)


def test_the_codec_repeats_its_bytes() -> None:
    conformance.encoding_again_gives_the_same_bytes(ternary())


def test_a_codec_that_breaks_the_contract_is_found() -> None:
    """The suite itself: one that drops a check accepts a second form, and one that forgets what it left."""
    ours = ternary()

    class Loose(type(ours.encoding)):  # type: ignore[misc]
        def decode(self, cursor: Any, shape: Any) -> Any:
            try:
                return super().decode(cursor, shape)
            except ArtifactError:
                return code()["Dense"](torch.zeros(prod(shape)))

    class Forgetful(type(ours.encoding)):  # type: ignore[misc]
        def encode_(self, values: Any, shape: Any) -> Any:
            section = super().encode_(values, shape)
            values.zero_()
            return section

    loose, forgetful = (
        Subject(encoding=each(), most_bytes=ours.most_bytes, reference=ours.reference)
        for each in (Loose, Forgetful)
    )
    with pytest.raises(AssertionError):
        conformance.other_bytes_say_something_else(loose, (300,), "zero", [(0.5, 1)])
    with pytest.raises(AssertionError):
        conformance.sent_and_left_make_the_whole(forgetful, (300,), "normal", 1)


WEIGHTS = [0.5, 0.25, 0.25]


def averaged(rule: Any, deltas: list[torch.Tensor], *, sparse: bool = False) -> torch.Tensor:
    total = torch.zeros_like(deltas[0])
    average = rule(total.numel())
    for delta, weight in zip(deltas, WEIGHTS, strict=True):
        if sparse:
            places = delta.nonzero().view(-1)
            total[places] += delta[places] * weight
            average.add_at(places, delta[places], weight, weight)
        else:
            total += delta * weight
            average.add(delta, weight, weight)
    average.finish(total)
    return total


@pytest.mark.parametrize("name", ["Agreed", "Senders", "Movers"])
def test_merge_rules_are_elementwise_and_know_no_codec(name: str) -> None:
    rule = {"Senders": Senders, "Movers": Movers, "Agreed": code()["Agreed"]}[name]
    generator = torch.Generator().manual_seed(1)
    deltas = [torch.randn(999, generator=generator) for _ in WEIGHTS]
    deltas = [torch.where(each > 0.3, each, torch.zeros(())) for each in deltas]
    whole = averaged(rule, deltas)
    assert torch.equal(whole, averaged(rule, deltas, sparse=True))
    halves = [averaged(rule, [each[part] for each in deltas]) for part in (slice(0, 500), slice(500, 999))]
    assert torch.equal(whole, torch.cat(halves))


def test_the_merge_rule_does_what_the_page_says() -> None:
    deltas = [
        torch.tensor(each) for each in ([1.0, 1.0, 1.0, 0.0], [1.0, -1.0, 0.0, 2.0], [1.0, -1.0, 0.0, 2.0])
    ]
    assert averaged(code()["Agreed"], deltas).tolist() == [1.0, 0.0, 0.5, 1.0]


class Little(torch.nn.Module):
    """A model of one table, in the form that tasks call."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(256, 256)

    def forward(self, *, input_ids: torch.Tensor, use_cache: bool) -> Any:
        return type("Out", (), {"logits": self.table(input_ids)})


@pytest.mark.parametrize("name", ["Steady", "CausalLM"])
def test_tasks_repeat_batches_and_weigh_rows_alike(name: str) -> None:
    kind = {"CausalLM": CausalLM, "Steady": code()["Steady"]}[name]
    task = kind.__new__(kind)
    task.sequence_length, task.batch_sequences = 16, 4
    tokens = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint16)
    task.order = Order(tokens, 16, seed=1, node="n")
    model = Little()
    batch = task.batch(8)
    assert torch.equal(batch, task.batch(8)) and not torch.equal(batch, task.batch(12))
    assert batch.shape == (task.batch_sequences, 17) and task.batch_tokens == 64
    loss = task.loss(model, batch)
    rows = torch.stack([task.loss(model, row.view(1, -1)) for row in batch])
    torch.testing.assert_close(loss, rows.mean())
    loss.backward()
    assert float(model.table.weight.grad.abs().sum()) > 0


def test_the_charge_is_in_the_loss() -> None:
    task = code()["Steady"].__new__(code()["Steady"])
    model, batch = Little(), torch.arange(34).view(2, 17)
    plain = CausalLM.loss(task, model, batch)
    charge = model.table(batch[:, :-1]).logsumexp(-1).square().mean()
    torch.testing.assert_close(task.loss(model, batch), plain + 1e-4 * charge)
