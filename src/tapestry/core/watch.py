"""Tells those who wait that a scope of the log has something new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from tapestry.errors import TapestryError
from tapestry.host.processes import Backoff

POLL_S: Final = 0.2
"""How often the log is looked at for what other processes wrote."""


class Watch:
    """Newest known sequence of each scope; belongs to one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sequences: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self.closed = False

    def tell(self, scope: str, sequence: int) -> None:
        """From the loop: `scope` has reached `sequence`."""
        if sequence <= self._sequences.get(scope, 0):
            return
        self._sequences[scope] = sequence
        for future in self._waiting.pop(scope, ()):
            if not future.done():
                future.set_result(None)

    def tell_from_thread(self, scope: str, sequence: int) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self.tell, scope, sequence)

    @property
    def scopes(self) -> set[str]:
        return set(self._sequences)

    async def newer(self, seen: Mapping[str, int], timeout_s: float) -> None:
        """Wait until one of the scopes goes beyond what was seen of it, but not longer than `timeout_s`."""
        if self.closed or any(self._sequences.get(scope, 0) > last for scope, last in seen.items()):
            return
        future: asyncio.Future[None] = self._loop.create_future()
        for scope in seen:
            self._waiting.setdefault(scope, set()).add(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            pass
        finally:
            for scope in seen:
                self._waiting.get(scope, set()).discard(future)

    async def follow(
        self, sequences: Callable[[], Mapping[str, int]], unreadable: Callable[[TapestryError], None]
    ) -> None:
        """Until cancelled: look at the log for what other processes wrote.

        Args:
            sequences: newest sequence of every scope; called in a thread.
            unreadable: told why the log could not be read.
        """
        backoff = Backoff()
        while True:
            try:
                found = await asyncio.to_thread(sequences)
            except TapestryError as error:
                unreadable(error)
                await asyncio.sleep(backoff.after(0))
                continue
            backoff = Backoff()
            for scope, sequence in found.items():
                self.tell(scope, sequence)
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Nobody waits any more."""
        self.closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
