"""Tells those who watch that something is known anew: rung by the follower, heard on the server's loop."""

from __future__ import annotations

import asyncio
import threading


class Bell:
    """Many may wait, each for what comes after what it has seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self.count = 0
        """How often it was rung."""

    def ring(self) -> None:
        """From any thread."""
        with self._lock:
            self.count += 1
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for each in self._waiting:
            if not each.done():
                each.set_result(None)

    async def heard(self, seen: int, timeout_s: float) -> bool:
        """Whether it was rung more than `seen` times, at last after so long."""
        loop = asyncio.get_running_loop()
        with self._lock:
            self._loop = loop
            if self.count > seen:
                return True
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.add(waiter)
        try:
            if self.count > seen:
                return True
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
        return True
