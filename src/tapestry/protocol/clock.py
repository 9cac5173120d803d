"""Arithmetic on the protocol's `Time`: UTC to the millisecond, as `2026-05-01T12:00:00.000Z`.

Times of this form sort as text in the order of time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from tapestry.errors import FormatError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z")


@lru_cache(maxsize=1024)
def parse_time(text: str) -> datetime:
    """The moment `text` names. Raises `FormatError` for another form or a day that does not exist."""
    if _TIME.fullmatch(text) is None:
        raise FormatError(f"{text[:40]!r} is not a time like 2026-05-01T12:00:00.000Z")
    try:
        return datetime.fromisoformat(text)
    except ValueError as e:
        raise FormatError(f"{text!r} is not a time: {e}") from e


def format_time(moment: datetime) -> str:
    """`moment` cut to the millisecond. Raises `ValueError` where it does not state its time zone."""
    if moment.tzinfo is None:
        raise ValueError("a time needs a time zone")
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(timespec="milliseconds") + "Z"


def time_text(ms: int) -> str:
    """Milliseconds since 1970-01-01 UTC in this form."""
    return format_time(_EPOCH + timedelta(milliseconds=ms))


def seconds_between(earlier: str, later: str) -> float:
    """How much later `later` is; negative where it is not."""
    return (parse_time(later) - parse_time(earlier)).total_seconds()


def add_seconds(time: str, seconds: float) -> str:
    """The time `seconds` after `time`. Raises `FormatError` outside the years 1 to 9999."""
    try:
        return format_time(parse_time(time) + timedelta(seconds=seconds))
    except OverflowError as e:
        raise FormatError(f"{seconds} s from {time} is outside the calendar") from e
