"""Every encoding does what `conformance` demands, and what is particular to each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tapestry.codec.contract import Cursor, Dense, Encoding
from tapestry.codec.shards import make
from tapestry.protocol import encoding as plan
from tests.codec import conformance, reference
from tests.codec.conformance import SHAPES, STYLES, Subject, values_of

KINDS: dict[str, dict[str, Any]] = {
    "fp32": {"kind": "fp32"},
    "bf16": {"kind": "bf16"},
    "int8": {"kind": "int8"},
    "fp4": {"kind": "fp4"},
    "sparse-loco": {"kind": "topk", "keep": 64, "side": 64, "bits": 2},
    "nearest": {"kind": "topk", "keep": 64, "side": 64, "bits": 2, "levels": "nearest"},
    "nearest-many": {"kind": "topk", "keep": 50, "side": 8, "bits": 5, "levels": "nearest"},
    "topk-wide": {"kind": "topk", "keep": 2, "side": 64, "bits": 8},
    "topk-many": {"kind": "topk", "keep": 50, "side": 8, "bits": 3},
    "topk-all": {"kind": "topk", "keep": 64, "side": 8, "bits": 4},
}
SETTINGS: TypeAdapter[Any] = TypeAdapter(plan.Encoding)

each_kind = pytest.mark.parametrize("name", KINDS)


def made(name: str) -> tuple[Encoding, Any]:
    of_plan = SETTINGS.validate_python(KINDS[name])
    return make(of_plan), of_plan


def subject(name: str) -> Subject:
    encoding, of_plan = made(name)
    return Subject(
        encoding=encoding,
        most_bytes=of_plan.most_bytes,
        reference=lambda data, shape: reference.decode(KINDS[name], data, shape),
        keeps_minus_zero="topk" not in of_plan.kind,
    )


@each_kind
@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.sampled_from(STYLES), st.integers(0, 1 << 20))
def test_what_is_sent_and_what_is_left_make_the_whole(
    name: str, shape: tuple[int, ...], style: str, seed: int
) -> None:
    conformance.sent_and_left_make_the_whole(subject(name), shape, style, seed)


@each_kind
@settings(max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(STYLES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_other_bytes_are_refused_or_say_something_else(
    name: str, shape: tuple[int, ...], style: str, changes: list[tuple[float, int]]
) -> None:
    conformance.other_bytes_say_something_else(subject(name), shape, style, changes)


@each_kind
@pytest.mark.parametrize("shape", SHAPES)
def test_cut_off_anywhere(name: str, shape: tuple[int, ...]) -> None:
    conformance.cut_off_anywhere_is_refused(subject(name), shape)


@each_kind
def test_encoding_again_gives_the_same_bytes(name: str) -> None:
    conformance.encoding_again_gives_the_same_bytes(subject(name))


def test_int8_is_within_a_128th_of_the_largest() -> None:
    encoding, _ = made("int8")
    values = values_of(2, 256 * 40, "normal")
    left = values.clone()
    encoding.encode_(left, (256 * 40,))
    largest = values.view(-1, 256).abs().amax(1)
    assert bool((left.view(-1, 256).abs().amax(1) <= largest / 128 * (1 + 1e-6)).all())


def test_fp4_is_within_a_third_of_each_value_near_the_largest() -> None:
    encoding, _ = made("fp4")
    values = values_of(2, 256 * 40, "normal")
    left = values.clone()
    encoding.encode_(left, (256 * 40,))
    near = values.view(-1, 256).abs() > values.view(-1, 256).abs().amax(1, keepdim=True) / 32
    assert bool((left.view(-1, 256).abs() <= values.view(-1, 256).abs() / 3 * (1 + 1e-6))[near].all())


def test_sparse_loco_takes_0_16_bit_a_value() -> None:
    encoding, of_plan = made("sparse-loco")
    shape = (1024, 1024)
    section = encoding.encode_(values_of(1, 1 << 20, "normal"), shape)
    assert section.numel() * 8 / (1 << 20) < 0.157
    assert 0 <= of_plan.most_bytes(shape) - section.numel() <= 4 * 3, "but for levels that are not used"


def test_sparse_loco_bins_are_those_of_the_paper() -> None:
    """Levels of two bits: means of the values nearer than 0.75 sigma to -3, -1.5, 0, 1.5 sigma."""
    encoding, _ = made("sparse-loco")
    values = values_of(4, 64 * 64, "normal")
    decoded = encoding.decode(Cursor(encoding.encode_(values.clone(), (64, 64))), (64, 64))
    assert not isinstance(decoded, Dense)
    chosen = values[decoded.places].double()
    centred = chosen - chosen.mean()
    sigma = centred.square().mean().sqrt()
    bins = (centred / (1.5 * sigma) + 2).round().clamp(0, 3)
    for code in bins.unique():
        mean = chosen[bins == code].mean().float()
        assert torch.equal(decoded.values[bins == code].unique(), mean.view(1))
