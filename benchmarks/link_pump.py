"""One direction of a link (`benchmarks.links`): its settings, what connections share, moving the bytes."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tapestry.errors import InputError

CHUNK_BYTES = 1448
READ_BYTES = 64 << 10
QUEUE_BYTES = 1 << 20
"""Of a connection and direction, beyond what is under way at the full rate; then reading stops."""
UNLIMITED_BITS_S = 1e9
"""With no rate, what the queue has room for during a delay."""
BURST_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction.

    Args:
        rate_bits_s: shared by all connections; None for as fast as the machine.
        delay_s: one way.
        loss: chance (0 to 1) that a chunk is sent again, a round trip later.
        reset_after_bytes: a connection is reset when so many bytes of it have passed in this direction.
        reset_chance: chance (0 to 1) that a connection is reset at a chunk, which is lost.

    Raises:
        InputError: a value that no link has.
    """

    rate_bits_s: float | None = None
    delay_s: float = 0.0
    loss: float = 0.0
    reset_after_bytes: int | None = None
    reset_chance: float = 0.0

    def __post_init__(self) -> None:
        if self.rate_bits_s is not None and not 0 < self.rate_bits_s < math.inf:
            raise InputError(
                f"a link cannot carry {self.rate_bits_s} bit/s", hint="give a rate above 0, or none"
            )
        if not 0 <= self.delay_s < math.inf:
            raise InputError(f"a link cannot delay by {self.delay_s} s", hint="give 0 s or more")
        for what, chance in (("loss", self.loss), ("reset chance", self.reset_chance)):
            if not 0 <= chance <= 1:
                raise InputError(f"a {what} of {chance} is no chance", hint="give a number from 0 to 1")
        if self.reset_after_bytes is not None and self.reset_after_bytes < 1:
            raise InputError(
                f"cannot reset after {self.reset_after_bytes} bytes", hint="give 1 or more, or none"
            )


class Reset(Exception):
    """The link cuts the connection here."""


class Lane:
    """One direction of the link, for all connections."""

    def __init__(self, link: Link, round_trip_s: float) -> None:
        self.link = link
        self.resend_s = round_trip_s
        self.bytes = 0
        bytes_s = (link.rate_bits_s or UNLIMITED_BITS_S) / 8
        held_s = link.delay_s + (round_trip_s if link.loss else 0.0)
        self.queue_bytes = QUEUE_BYTES + int(bytes_s * held_s)
        # Half a burst at a time, so that no connection keeps the others waiting for long.
        self.read_bytes = min(READ_BYTES, max(CHUNK_BYTES, int(bytes_s * BURST_S / 2)))
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def carry(self, size: int) -> float:
        """Waits its turn and as long as `size` bytes take; when (monotonic) they have left."""
        if self.link.rate_bits_s is None:
            return time.monotonic()
        async with self._turn:
            now = time.monotonic()
            # A sleep that ends late, or a pause, is made good up to a burst.
            self._free_at = max(self._free_at, now - BURST_S) + size * 8 / self.link.rate_bits_s
            if self._free_at > now:
                await asyncio.sleep(self._free_at - now)
            return max(now, self._free_at)


def _gap(random: Random, chance: float) -> float:
    """Chunks up to and with the next one that is hit; infinite where none ever is."""
    if chance == 0:
        return math.inf
    return 1.0 if chance == 1 else 1.0 + math.log(1 - random.random()) // math.log1p(-chance)


class Pump:
    """One direction of one connection: a reader, a queue of (due time, what), a writer."""

    def __init__(self, source: socket.socket, sink: socket.socket, lane: Lane, random: Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink, self._lane, self._random = source, sink, lane, random
        self._queue: deque[tuple[float, bytes | Exception]] = deque()
        self._queued_bytes = 0
        self._filled, self._room = asyncio.Event(), asyncio.Event()
        self._last_due = 0.0
        link = lane.link
        self._to_loss, self._to_reset = _gap(random, link.loss), _gap(random, link.reset_chance)
        self._left: float = math.inf if link.reset_after_bytes is None else link.reset_after_bytes

    async def run(self) -> bool:
        """Until the end of the stream is passed on (True) or the sink takes no more (False).

        Raises:
            Reset: the link cuts the connection.
            OSError: the source was reset; what came before has been passed on.
        """
        reader = asyncio.create_task(self._read())
        try:
            return await self._write()
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._loop.sock_recv(self._source, self._lane.read_bytes):
                kept = self._before_reset(data)
                for part, late_s in self._parts(data if kept is None else data[:kept]):
                    await self._put(part, late_s)
                if kept is not None:
                    await self._put(Reset())
                    return
            await self._put(b"")
        except OSError as gone:
            await self._put(gone)

    def _before_reset(self, data: bytes) -> int | None:
        """How many of these bytes still pass; None where no reset falls among them."""
        kept = min(self._left, (self._to_reset - 1) * CHUNK_BYTES)
        if kept < len(data) or self._left <= len(data):
            return int(kept)
        self._left -= len(data)
        self._to_reset -= math.ceil(len(data) / CHUNK_BYTES)
        return None

    def _parts(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        """Cut at the lost chunks: bytes, and by how many seconds they come later."""
        at = 0
        while at < len(data):
            hit = at + (self._to_loss - 1) * CHUNK_BYTES
            if hit >= len(data):
                self._to_loss -= math.ceil((len(data) - at) / CHUNK_BYTES)
                yield data[at:], 0.0
                return
            lost = int(hit)
            if lost > at:
                yield data[at:lost], 0.0
            at = lost + CHUNK_BYTES
            yield data[lost:at], self._lane.resend_s
            self._to_loss = _gap(self._random, self._lane.link.loss)

    async def _put(self, what: bytes | Exception, late_s: float = 0.0) -> None:
        size = len(what) if isinstance(what, bytes) else 0
        while self._queued_bytes >= self._lane.queue_bytes:
            self._room.clear()
            await self._room.wait()
        left = await self._lane.carry(size) if size else time.monotonic()
        self._last_due = max(self._last_due, left + self._lane.link.delay_s + late_s)
        self._queue.append((self._last_due, what))
        self._queued_bytes += size
        self._filled.set()

    async def _write(self) -> bool:
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            due, what = self._queue.popleft()
            wait_s = due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if isinstance(what, Exception):
                raise what
            try:
                if not what:
                    self._sink.shutdown(socket.SHUT_WR)
                    return True
                self._lane.bytes += len(what)  # before the other end can have seen them
                await self._loop.sock_sendall(self._sink, what)
            except OSError:
                return False  # what the sink said before it went still has to reach the source
            self._queued_bytes -= len(what)
            self._room.set()
