"""What every encoding must do, whatever it sends."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tapestry.codec.contract import Cursor, Decoded, Dense, Encoding
from tapestry.codec.shards import make
from tapestry.errors import ArtifactError
from tapestry.protocol import encoding as plan
from tests.codec import reference

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
SHAPES = [(), (1,), (300,), (5000,), (3, 5), (64, 64), (70, 130), (9, 2, 5)]
SETTINGS: TypeAdapter[Any] = TypeAdapter(plan.Encoding)

each_kind = pytest.mark.parametrize("name", KINDS)


def made(name: str) -> tuple[Encoding, Any]:
    of_plan = SETTINGS.validate_python(KINDS[name])
    return make(of_plan), of_plan


def dense(decoded: Decoded, count: int) -> torch.Tensor:
    if isinstance(decoded, Dense):
        return decoded.values
    values = torch.zeros(count)
    assert decoded.places.unique().numel() == decoded.places.numel()
    values[decoded.places] = decoded.values
    return values


def values_of(seed: int, count: int, style: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, generator=generator)
    match style:
        case "normal":
            return normal * 1e-3
        case "orders":
            return normal * 10.0 ** torch.randint(-44, 37, (count,), generator=generator)
        case "equal":
            return torch.where(normal > 0, 2e-4, -2e-4)
        case "few":
            return torch.where(normal > 2.5, normal, 0.0)
        case "tiny":
            return normal * 1e-42
        case "huge":
            return normal.clamp(-3, 3) * 1e38
    return torch.zeros(count)


STYLES = ["normal", "orders", "equal", "few", "tiny", "huge", "zero"]


@each_kind
@settings(max_examples=40)
@given(st.sampled_from(SHAPES), st.sampled_from(STYLES), st.integers(0, 1 << 20))
def test_what_is_sent_and_what_is_left_make_the_whole(
    name: str, shape: tuple[int, ...], style: str, seed: int
) -> None:
    encoding, of_plan = made(name)
    values = values_of(seed, int(np.prod(shape)), style)
    left = values.clone()
    section = encoding.encode_(left, shape)
    assert section.numel() <= of_plan.most_bytes(shape)
    cursor = Cursor(torch.cat([section, torch.ones(3, dtype=torch.uint8)]))
    sent = dense(encoding.decode(cursor, shape), values.numel())
    assert cursor.left == 3, "a section says itself where it ends"
    assert torch.equal(left, values - sent)
    assert left.abs().sum() <= values.abs().sum()
    expected, end = reference.decode(KINDS[name], section.numpy().tobytes(), shape)
    assert end == section.numel()
    assert expected.tobytes() == (sent + 0.0 if "topk" in of_plan.kind else sent).numpy().tobytes()


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
    """One state has one encoding; the reference refuses what the decoder refuses."""
    encoding, _ = made(name)
    values = values_of(3, int(np.prod(shape)), style)
    section = encoding.encode_(values, shape).numpy().tobytes()
    changed = bytearray(section)
    for where, change in changes:
        changed[int(where * len(changed))] ^= change
    if changed == section:
        return
    try:
        expected, end = reference.decode(KINDS[name], bytes(changed), shape)
    except (AssertionError, IndexError, struct.error):
        expected, end = None, 0
    try:
        cursor = Cursor(torch.frombuffer(changed, dtype=torch.uint8))
        sent = dense(encoding.decode(cursor, shape), values.numel())
    except ArtifactError:
        assert expected is None
        return
    assert expected is not None and cursor.at == end
    assert expected.tobytes() == sent.numpy().tobytes()
    before, _ = reference.decode(KINDS[name], section, shape)
    same_length = cursor.at == len(section)
    assert not same_length or before.tobytes() != expected.tobytes()


@each_kind
@pytest.mark.parametrize("shape", SHAPES)
def test_cut_off_anywhere(name: str, shape: tuple[int, ...]) -> None:
    encoding, _ = made(name)
    section = encoding.encode_(values_of(1, int(np.prod(shape)), "normal"), shape)
    for length in sorted({0, 1, section.numel() // 2, section.numel() - 1}):
        if length < section.numel():
            with pytest.raises(ArtifactError):
                encoding.decode(Cursor(section[:length]), shape)


@each_kind
def test_encoding_again_gives_the_same_bytes(name: str) -> None:
    encoding, _ = made(name)
    values = values_of(5, 70 * 130, "normal")
    assert torch.equal(
        encoding.encode_(values.clone(), (70, 130)), encoding.encode_(values.clone(), (70, 130))
    )


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
