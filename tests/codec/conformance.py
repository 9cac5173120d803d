"""What every encoding must do, whatever it sends: demands on those of `src/` and on anybody's own.

Shape legend: a piece's values are flat fp32 of the product of its shape.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import torch

from tapestry.codec.contract import Cursor, Decoded, Dense, Encoding
from tapestry.errors import ArtifactError

Shape = tuple[int, ...]
SHAPES: list[Shape] = [(), (1,), (300,), (5000,), (3, 5), (64, 64), (70, 130), (9, 2, 5)]
STYLES = ["normal", "orders", "equal", "few", "tiny", "huge", "zero"]
Reference = Callable[[bytes, Shape], tuple[np.ndarray, int]]
"""Values of a section at the head of the bytes, and where it ends, by code that shares nothing with `src/`;
`AssertionError`, `IndexError` or `struct.error` where it is not canonical."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoding under test."""

    encoding: Encoding
    most_bytes: Callable[[Shape], int]
    reference: Reference
    keeps_minus_zero: bool = True
    """Whether −0 is sent as such; one that leaves values out cannot tell it from +0."""


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


def dense(decoded: Decoded, count: int) -> torch.Tensor:
    """All values of a piece; those that were not sent are +0."""
    if isinstance(decoded, Dense):
        return decoded.values
    values = torch.zeros(count)
    assert decoded.places.unique().numel() == decoded.places.numel()
    values[decoded.places] = decoded.values
    return values


def sent_and_left_make_the_whole(subject: Subject, shape: Shape, style: str, seed: int) -> None:
    """Also that the section is bounded, says itself where it ends, and that the reference reads the same."""
    values = values_of(seed, prod(shape), style)
    left = values.clone()
    section = subject.encoding.encode_(left, shape)
    assert section.numel() <= subject.most_bytes(shape)
    cursor = Cursor(torch.cat([section, torch.ones(3, dtype=torch.uint8)]))
    sent = dense(subject.encoding.decode(cursor, shape), values.numel())
    assert cursor.left == 3, "a section says itself where it ends"
    assert torch.equal(left, values - sent)
    assert left.abs().sum() <= values.abs().sum()
    expected, end = subject.reference(section.numpy().tobytes(), shape)
    assert end == section.numel()
    assert expected.tobytes() == (sent if subject.keeps_minus_zero else sent + 0.0).numpy().tobytes()


def other_bytes_say_something_else(
    subject: Subject, shape: Shape, style: str, changes: list[tuple[float, int]]
) -> None:
    """Or are refused: one state has one encoding, and the reference refuses what the decoder refuses.

    Args:
        changes: what is changed: where, as a part of the section, and the bits of the byte there.
    """
    values = values_of(3, prod(shape), style)
    section = subject.encoding.encode_(values, shape).numpy().tobytes()
    changed = bytearray(section)
    for where, change in changes:
        changed[int(where * len(changed))] ^= change
    if changed == section:
        return
    try:
        expected, end = subject.reference(bytes(changed), shape)
    except (AssertionError, IndexError, struct.error):
        expected, end = None, 0
    try:
        cursor = Cursor(torch.frombuffer(changed, dtype=torch.uint8))
        sent = dense(subject.encoding.decode(cursor, shape), values.numel())
    except ArtifactError:
        assert expected is None
        return
    assert expected is not None and cursor.at == end
    assert expected.tobytes() == sent.numpy().tobytes()
    before, _ = subject.reference(section, shape)
    same_length = cursor.at == len(section)
    assert not same_length or before.tobytes() != expected.tobytes()


def cut_off_anywhere_is_refused(subject: Subject, shape: Shape) -> None:
    section = subject.encoding.encode_(values_of(1, prod(shape), "normal"), shape)
    for length in sorted({0, 1, section.numel() // 2, section.numel() - 1}):
        if length < section.numel():
            with pytest.raises(ArtifactError):
                subject.encoding.decode(Cursor(section[:length]), shape)


def encoding_again_gives_the_same_bytes(subject: Subject) -> None:
    values = values_of(5, 70 * 130, "normal")
    first, second = (subject.encoding.encode_(values.clone(), (70, 130)) for _ in range(2))
    assert torch.equal(first, second)
