"""Canonical JSON: one value, one encoding; everything else is refused with a typed error."""

from __future__ import annotations

import gc
import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tapestry.catalog import document
from tapestry.errors import FormatError, TapestryError, TooLarge
from tapestry.protocol import canonical

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text() | st.floats(-1e15, 1e15),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_round_trip(value: object) -> None:
    data = canonical.encode(value)
    assert canonical.decode(data) == value
    assert canonical.encode(canonical.decode(data)) == data


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_one_typed_error(data: bytes) -> None:
    try:
        value = canonical.decode(data)
    except TapestryError:
        return
    assert canonical.encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":1}',
        b'{"b":1,"a":1}',
        b'{"a": 1}',
        b'{"a":1.0}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":1}\n',
        b'"\\u0041"',
        b"\xff",
        b"",
    ],
)
def test_what_is_not_canonical_is_refused(data: bytes) -> None:
    assert canonical.decode(b'{"a":1,"b":[]}') == {"a": 1, "b": []}
    with pytest.raises(FormatError):
        canonical.decode(data)


def test_size_is_checked_before_parsing() -> None:
    with pytest.raises(TooLarge):
        canonical.decode(b"[" * 2_000_000)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "a" * 65, ".a", "a..b"])
def test_names_are_safe_as_file_names(name: str) -> None:
    assert canonical.is_name("node-1.a")
    assert not canonical.is_name(name)


@given(JSON)
def test_it_is_what_the_library_writes(value: object) -> None:
    """Most values take a shorter way."""
    assert canonical.encode(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    "number",
    [
        *(0.0, -0.0, 1.0, -7.0, 0.5, 0.1, 1 / 3, 123456.789, 1e9, 1e-4, 1.5e-4, 0.00010000000000000002),
        *(9.9e-5, 1e-7, 5e-324, 1e15, 999999999999999.9, 1e15 + 0.5, 1e21, 1e22, 1.7976931348623157e308),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(number: float) -> None:
    for value in (number, [number], {"a": [1, {"b": (number,)}], "c": "d"}):
        before = repr(value)
        assert canonical.encode(value) == rfc8785.dumps(value)
        assert repr(value) == before  # what was given stays as it is


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_is_written_as_ecmascript_writes_it(number: float) -> None:
    assert canonical.encode([number]) == rfc8785.dumps([number])


@pytest.mark.parametrize(
    "value", ["\ud800", ["\ud800"], {"\ud800": 1}, 2**53, -(2**53), float("nan"), {1: 2}, b"a"]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        canonical.encode(value)


@pytest.mark.parametrize(
    "value",
    [
        {"\U0001f600": 1, "\ue000": 2, "a": 3},
        {"é": 1, "e": 2, "z": 3},
        '\x00\x1f\x7f\u2028\\"/\b\f\n\r\t',
        [1, 1.0, -0.0, 1e21, True, None, (2,)],
    ],
)
def test_order_of_keys_and_escapes(value: object) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)


def test_python_does_not_look_for_cycles_while_much_is_parsed() -> None:
    much = bytes(canonical.MUCH_BYTES)
    with canonical.uncollected(much):
        assert not gc.isenabled()
        with canonical.uncollected(much):
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(FormatError), canonical.uncollected(much):
        raise FormatError("no document")
    assert gc.isenabled()
    with canonical.uncollected(much[1:]):
        assert gc.isenabled()


def test_neither_is_it_done_in_what_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def read(text: str, **options: object) -> object:
        seen.append(gc.isenabled())
        return json.JSONDecoder().decode(text)

    data = b'{"a":"' + b"x" * canonical.MUCH_BYTES + b'"}'
    monkeypatch.setattr(canonical, "_READ", read)
    canonical.decode(data)
    monkeypatch.setattr(json, "loads", read)
    document.read(data, "card.json")
    assert seen == [False, False]
