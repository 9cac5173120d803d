from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import FormatError
from tapestry.ledger.checkpoint import Checkpoint, origin_of

ORIGIN = origin_of("a" * 64)
ROOT = bytes(range(32))


def test_three_lines() -> None:
    text = Checkpoint(ORIGIN, 12, ROOT).text
    assert text == f"tapestry/{'a' * 64}\n12\n{base64.b64encode(ROOT).decode()}\n"
    assert Checkpoint.parse(text) == Checkpoint(ORIGIN, 12, ROOT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tapestry/", "another/"),
        ("\n12\n", "\n012\n"),
        ("\n12\n", "\n-12\n"),
        ("\n12\n", "\n1 2\n"),
        ("\n12\n", "\n" + "9" * 17 + "\n"),
        ("=\n", "\n"),
        ("=\n", "=\nextension\n"),
        ("=\n", "="),
        ("AAEC", "AAE-"),
        ("Hh8=", "Hh9="),
    ],
)
def test_any_other_form_is_refused(old: str, new: str) -> None:
    text = Checkpoint(ORIGIN, 12, ROOT).text
    assert old in text
    with pytest.raises(FormatError):
        Checkpoint.parse(text.replace(old, new, 1))


@given(size=st.integers(0, 1 << 53), root=st.binary(min_size=32, max_size=32))
def test_every_checkpoint_comes_back(size: int, root: bytes) -> None:
    one = Checkpoint(ORIGIN, size, root)
    assert Checkpoint.parse(one.text) == one


@given(text=st.text(max_size=200))
def test_any_text_is_one_or_a_typed_error(text: str) -> None:
    with pytest.raises(FormatError):
        Checkpoint.parse(text)
