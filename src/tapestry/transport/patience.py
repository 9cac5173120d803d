"""Waiting for a core that is away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tapestry.errors import Unreachable

T = TypeVar("T")


class Pauses:
    """How long to wait before each further try: `first_s`, doubling to `most_s`.

    Each is drawn from its upper half, so that nodes that lost the core together do not come back
    together.
    """

    def __init__(self, first_s: float = 0.2, most_s: float = 10.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def next(self) -> float:
        """Seconds to wait now."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return pause_s * (0.5 + random.random() / 2)  # noqa: S311 - no secret

    def reset(self) -> None:
        """It went well: begin anew."""
        self._next_s = self._first_s


def patiently(
    action: Callable[[], T],
    *,
    waiting: Callable[[Unreachable, float], None] | None = None,
    give_up_s: float | None = None,
    pauses: Pauses | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Call `action` until the core can be reached.

    Args:
        action: what to do; it must be harmless to repeat.
        waiting: told the error and the seconds until the next try.
        give_up_s: raise instead of waiting longer than this in all; None waits for ever.
        pauses: how long to wait each time.
        sleep: how to wait; raise from it to stop.

    Raises:
        Unreachable: after `give_up_s`.
    """
    began = time.monotonic()
    pauses = pauses or Pauses()
    while True:
        try:
            return action()
        except Unreachable as error:
            wait_s = pauses.next()
            if give_up_s is not None and time.monotonic() - began + wait_s > give_up_s:
                raise
            if waiting is not None:
                waiting(error, wait_s)
        sleep(wait_s)
