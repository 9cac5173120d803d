"""The core's clock: the only one that decides anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from tapestry.protocol.clock import format_time

Clock = Callable[[], int]
"""Milliseconds since 1970-01-01 UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def time_text(ms: int) -> str:
    """`ms` in the protocol's form."""
    return format_time(_EPOCH + timedelta(milliseconds=ms))
