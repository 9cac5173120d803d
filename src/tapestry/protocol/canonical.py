"""Canonical JSON (RFC 8785) and SHA-256 addresses.

One value has one encoding: what does not re-encode to the same bytes is refused, so a hash over
the bytes is a hash over the meaning.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import rfc8785
from pydantic import StringConstraints

from tapestry.errors import FormatError, TooLarge

SHA256_PATTERN = r"^[0-9a-f]{64}$"
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
"""A content address: 64 lower-case hexadecimal digits."""

NAME_PATTERN = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Name of a member, node or run: safe as a file name and in a URL, at most 64 characters."""

MAX_MESSAGE_BYTES = 1 << 20
MIN_VALUES = 1 << 16
BYTES_A_VALUE = 32
"""A document may hold a value for each so many bytes of its limit, and `MIN_VALUES` in any case: two bytes of
JSON can stand for a hundred in memory."""
LEAST_BYTES_A_VALUE = 4
"""Beyond `MIN_VALUES`, each value needs so many bytes of the document itself; ours have more."""

MUCH_BYTES = 1 << 16
"""Of a document below which Python's search for cycles costs next to nothing."""

_SHA256 = re.compile(SHA256_PATTERN)
_NAME = re.compile(NAME_PATTERN)


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and ".." not in text


def sha256(data: bytes | memoryview) -> str:
    """Content address of `data`."""
    return hashlib.sha256(data).hexdigest()


MAX_INTEGER = (1 << 53) - 1
SMALL_FLOAT, LARGE_FLOAT = 1e-4, 1e15
"""Between these, Python and ECMAScript write a float that is no whole number in the same way."""
_DUMP = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_DUMP_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class _Odd(Exception):
    """Python's own encoder does not write this as RFC 8785 says."""


def _float(value: float) -> float | int:
    """What Python writes as ECMAScript writes this number. Raises `_Odd`."""
    size = abs(value)
    if size < LARGE_FLOAT and value.is_integer():
        return int(value)
    if SMALL_FLOAT <= size < LARGE_FLOAT:
        return value
    raise _Odd


def _plain(value: Any) -> Any:
    """What Python's own encoder writes as RFC 8785 writes `value`: itself, or a copy where it has floats that
    are whole numbers. Raises `_Odd` for other floats than most, integers above 2^53 - 1, and keys whose order
    by UTF-16 might not be that by code points."""
    kind = type(value)
    if kind is dict:
        new: Any = value
        for key, each in value.items():
            if type(key) is not str or not key.isascii():
                raise _Odd
            if type(each) is not str and (other := _plain(each)) is not each:
                if new is value:
                    new = dict(value)
                new[key] = other
        return new
    if kind is list or kind is tuple:
        new = value
        for at, each in enumerate(value):
            if type(each) is not str and (other := _plain(each)) is not each:
                if new is value:
                    new = list(value)
                new[at] = other
        return new
    if kind is int:
        if -MAX_INTEGER <= value <= MAX_INTEGER:
            return value
    elif kind is float:
        return _float(value)
    elif kind is str or kind is bool or value is None:
        return value
    raise _Odd


def encode(value: Any) -> bytes:
    """`value` (JSON types only) as RFC 8785 bytes. Raises `FormatError` where it has none: NaN, big ints."""
    try:
        try:
            return _DUMP(_plain(value)).encode("utf-8")  # a tenth of the time
        except _Odd:
            return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as e:
        raise FormatError(f"value has no canonical JSON form: {e}") from e


def plain_json(value: Any) -> bytes:
    """`value` (JSON types only) as some JSON, for whoever parses it at once. Raises `FormatError`."""
    try:
        return _DUMP_PLAIN(value).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as e:
        raise FormatError(f"value has no JSON form: {e}") from e


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise FormatError("JSON object names a key twice")
    return seen


def _refuse_constant(name: str) -> Any:
    raise FormatError(f"JSON holds {name}, which is not a number")


_READ = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_refuse_constant).decode


@contextmanager
def uncollected(data: bytes) -> Iterator[None]:
    """Within, where `data` is large, Python does not look for cycles. What is parsed from it has none, and to
    go through all of it again and again while it grows takes up to nine tenths of the time."""
    pauses = len(data) >= MUCH_BYTES and gc.isenabled()
    try:
        if pauses:
            gc.disable()
        yield
    finally:
        if pauses:
            gc.enable()


def check_limits(data: bytes, *, what: str, max_bytes: int) -> None:
    """What `decode` looks at before it parses. Raises `TooLarge` or `FormatError`."""
    if len(data) > max_bytes:
        raise TooLarge(f"{what} has {len(data)} bytes; at most {max_bytes} are allowed")
    max_values = max(MIN_VALUES, min(max_bytes // BYTES_A_VALUE, len(data) // LEAST_BYTES_A_VALUE))
    if data.count(b",") + data.count(b"[") + data.count(b"{") > max_values:
        raise FormatError(f"{what} holds more than the {max_values} values allowed")


def decode(data: bytes, *, what: str = "message", max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Parse JSON that must be canonical.

    Args:
        data: the bytes as they came.
        what: how an error names them.
        max_bytes: refused above this, before anything is parsed; so are more commas and brackets than
            `BYTES_A_VALUE` allows.

    Raises:
        TooLarge: above `max_bytes`.
        FormatError: not JSON, nested too deep, too many values, a duplicate key, NaN, half a surrogate
            pair, or not canonical.
    """
    check_limits(data, what=what, max_bytes=max_bytes)
    try:
        with uncollected(data):
            value = _READ(data.decode("utf-8"))
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{what} is not JSON: {e}") from e
    if encode(value) != data:
        raise FormatError(f"{what} is not in canonical form (RFC 8785)")
    return value
