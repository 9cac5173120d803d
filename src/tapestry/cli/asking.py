"""Asks something of a core again and again, in a thread of its own: a core that hangs holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from tapestry.errors import PeerError, TapestryError

T = TypeVar("T")
EVERY_S: Final = 2.0
FIRST_S: Final = 3.0
"""So long the first answer is waited for, so that a single look has it."""
SILENT_S: Final = 5.0
"""After so long without an answer that is said."""
GIVEN_UP_S: Final = 20.0
"""After so long it is asked anew: a core that sends a byte now and then never
ends an answer."""
THREADS: Final = 4
"""Questions that were given up and go on still; with so many, one more waits until one of them has ended."""


class Asking(Generic[T]):
    """
    Args:
        ask: asks once; called in a thread. Raises `TapestryError`.
        where: the core's address, for a person.
        clock: seconds that only count on.
    """

    def __init__(
        self, ask: Callable[[], T], where: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._where = where
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: T | None = None
        self._trouble: str | None = None
        self._began: float | None = None
        """Of the question that goes on."""
        self._ended = -EVERY_S
        self._silent: tuple[float, str] | None = None
        """When the first question without an answer began, and that for a person."""
        self._number = 0
        self._going = 0
        self._waited = False
        self._done = threading.Event()

    def look(self) -> tuple[T | None, str | None]:
        """The newest answer, and why there is none newer; asks anew where it is time. Never waits but for the
        first answer, `FIRST_S` at most."""
        now = self._clock()
        with self._lock:
            late = self._began is not None and now - self._began > GIVEN_UP_S
            due = self._began is None and now - self._ended >= EVERY_S
            if (late or due) and self._going < THREADS:
                self._number += 1
                self._going += 1
                self._began = now
                if self._silent is None:
                    self._silent = now, time.strftime("%H:%M:%S")
                threading.Thread(target=self._once, args=(self._number,), daemon=True).start()
        if not self._waited:
            self._waited = True
            self._done.wait(FIRST_S)
        with self._lock:
            if self._trouble is None and self._silent is not None:
                since, at = self._silent
                if self._answer is None or self._clock() - since > SILENT_S:
                    where = self._where()
                    words = f"the core at {where} has not answered since {at}; it is asked again and again"
                    return self._answer, words
            return self._answer, self._trouble

    def _once(self, number: int) -> None:
        answer, trouble = None, None
        try:
            answer = self._ask()
        except PeerError as error:
            trouble = error.message
        except TapestryError as error:
            trouble = f"the core does not answer this node: {error.message}"
        except Exception as error:  # noqa: BLE001 - as of a connection that is closed meanwhile
            trouble = f"the core could not be asked: {error!r}"
        with self._lock:
            self._going -= 1
            if number != self._number:
                return  # it was given up
            self._began, self._ended, self._trouble = None, self._clock(), trouble
            if trouble is None:
                self._answer, self._silent = answer, None
        self._done.set()
