"""Canonical JSON (RFC 8785) and SHA-256 addresses.

One value has one encoding: what does not re-encode to the same bytes is refused, so a hash over
the bytes is a hash over the meaning.
"""

from __future__ import annotations

import hashlib
import json
import re
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

_SHA256 = re.compile(SHA256_PATTERN)
_NAME = re.compile(NAME_PATTERN)


def is_sha256(text: str) -> bool:
    return _SHA256.fullmatch(text) is not None


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and ".." not in text


def sha256(data: bytes | memoryview) -> str:
    """Content address of `data`."""
    return hashlib.sha256(data).hexdigest()


def encode(value: Any) -> bytes:
    """`value` (JSON types only) as RFC 8785 bytes. Raises `FormatError` for NaN, big ints and the like."""
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, RecursionError) as e:
        raise FormatError(f"value has no canonical JSON form: {e}") from e


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise FormatError("JSON object names a key twice")
    return seen


def _refuse_constant(name: str) -> Any:
    raise FormatError(f"JSON holds {name}, which is not a number")


def decode(data: bytes, *, what: str = "message", max_bytes: int = MAX_MESSAGE_BYTES) -> Any:
    """Parse JSON that must be canonical.

    Args:
        data: the bytes as they came.
        what: how an error names them.
        max_bytes: refused above this, before anything is parsed.

    Raises:
        TooLarge: above `max_bytes`.
        FormatError: not JSON, nested too deep to parse, a duplicate key, NaN, or not canonical.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"{what} has {len(data)} bytes; at most {max_bytes} are allowed")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{what} is not JSON: {e}") from e
    if encode(value) != data:
        raise FormatError(f"{what} is not in canonical form (RFC 8785)")
    return value
