"""The core's time, as a client reckons it. A node's own clock changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from tapestry.errors import FormatError, Unreachable
from tapestry.protocol import clock


def _since_boot() -> float:
    """Seconds on a clock that cannot be set and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class CoreClock:
    """The core's time, reckoned from its last answer."""

    def __init__(self, since_boot: Callable[[], float] = _since_boot) -> None:
        self._since_boot = since_boot
        self._ahead_s: float | None = None

    @property
    def known(self) -> bool:
        return self._ahead_s is not None

    def set(self, stated: str) -> None:
        """The core says what time it is. What is not a time is passed over."""
        try:
            moment = clock.parse_time(stated)
        except FormatError:
            return
        self._ahead_s = moment.timestamp() - self._since_boot()

    def told(self, stated: str | None) -> float:
        """What an answer says, in seconds since 1970; where it says nothing, the time as it is reckoned."""
        try:
            return self.now_s() if stated is None else clock.parse_time(stated).timestamp()
        except FormatError:
            return self.now_s()

    def now_s(self) -> float:
        """Seconds since 1970 by the core's clock. Raises `Unreachable` before its first answer."""
        if self._ahead_s is None:
            raise Unreachable("the core has not said what time it is")
        return self._since_boot() + self._ahead_s

    def now(self) -> str:
        """As messages write it."""
        return text(self.now_s())


def text(seconds: float) -> str:
    """A moment as messages write it, of seconds since 1970."""
    try:
        return clock.format_time(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, ValueError) as e:
        raise FormatError("the core's time is outside the calendar") from e
