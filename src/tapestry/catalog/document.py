"""JSON of a card as a person may have edited it: any layout, bounded in every way, unknown fields kept."""

from __future__ import annotations

import json
from typing import Any, Final

from tapestry.errors import CardError, FormatError, TapestryError
from tapestry.protocol import canonical

MAX_BYTES: Final = 64 << 20
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 4 << 20
"""Commas and brackets; a file of a dataset takes about 15."""

Json = dict[str, Any]


def _once(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a key twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def read(data: bytes, where: str) -> Json:
    """The object in a card's file. Raises `CardError`."""
    hint = "mend the file, or make the card anew with: tapestry catalog add"
    if len(data) > MAX_BYTES:
        raise CardError(f"{where} has {len(data)} bytes; a card has at most {MAX_BYTES}", hint=hint)
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise CardError(f"{where} holds more than {MAX_VALUES} values", hint=hint)
    try:
        with canonical.uncollected(data):
            value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        _shallow(value, MAX_DEPTH)
        canonical.encode(value)
    except (ValueError, RecursionError, FormatError) as e:
        said = e.message if isinstance(e, TapestryError) else str(e)
        raise CardError(f"{where} is no card: {said}", hint=hint) from e
    return value


def _shallow(value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        for each in value.values() if isinstance(value, dict) else value:
            _shallow(each, depth - 1)
