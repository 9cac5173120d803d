"""The core's clock: the only one that decides anything."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Milliseconds since 1970-01-01 UTC."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000
