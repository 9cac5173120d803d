"""The line between one node and the core: a relay on the loopback that can be cut in the middle of an upload,
or led to another core.

Bytes pass as they are, TLS and all. A link with rates, delays and losses is `benchmarks.links`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
READ_BYTES: Final = 16 << 10
SILENT: Final = 0.5
"""Of the time that a link is away: so long the other end hears nothing, and only then that it was cut."""
UPLOAD_BYTES: Final = 24 << 10
"""So many bytes up without an answer between them are an upload, and no small request."""


@dataclass(eq=False)
class Upload:
    """Bytes that went up on one connection with nothing coming down between them."""

    at: float
    """`time.monotonic()` of its first byte."""
    bytes: int = 0
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class _Order:
    """A cut that is still to come."""

    after_bytes: int
    away_s: float


@dataclass
class _Connection:
    upload: Upload | None = None
    """The one that goes on."""


class Link:
    """Open while the context is; it runs in a thread of its own.

    Args:
        target: port of the core.
        port: where the node finds it; any free one if 0.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self.target, self.port = target, port
        self.uploads: list[Upload] = []
        """Those of at least `UPLOAD_BYTES`, and what was cut, in order."""
        self.cut_at: float | None = None
        """When the newest cut came; `back_at`: until when the link is away."""
        self.back_at = 0.0
        self.refused = 0
        """Connections that were tried while it was away."""
        self._order: _Order | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def cut_in_upload(self, after_bytes: int, away_s: float) -> None:
        """At the next upload: cut every connection after so many bytes of it, and be away for a while."""
        self.cut_at, self.refused = None, 0
        self._order = _Order(after_bytes=after_bytes, away_s=away_s)

    def lead_to(self, target: int, away_s: float = 0.0) -> None:
        """Another core answers at the node's end from now on, or when the link was away for a while: then the
        node knows that something has happened."""
        self.target, self.refused = target, 0
        self.back_at = time.monotonic() + away_s
        self._loop.call_soon_threadsafe(self._drop)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="link", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # -- in the thread ------------------------------------------------------------------------

    def _run(self, ready: threading.Event) -> None:
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connect, HOST, self.port)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        self.back_at = math.inf
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # each ends with its connection
            self._drop()
            await asyncio.wait(tasks, timeout=0.05)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() < self.back_at:
            self.refused += 1
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, far_writer}
        self._writers |= both
        connection = _Connection()
        try:
            up = self._loop.create_task(self._up(connection, reader, far_writer))
            down = self._loop.create_task(self._down(connection, far_reader, writer))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            if connection.upload is not None and connection.upload.cut:
                await up
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        finally:
            self._writers -= both
            for each in both:
                each.close()

    async def _up(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                upload = connection.upload or Upload(at=time.monotonic())
                connection.upload = upload
                order = self._order
                if order is not None and upload.bytes + len(data) >= order.after_bytes:
                    await self._cut(order, upload, data[: order.after_bytes - upload.bytes], writer)
                    return
                upload.bytes += len(data)
                if upload.bytes >= UPLOAD_BYTES:
                    self._noted(upload)
                writer.write(data)
                await writer.drain()

    async def _down(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                connection.upload = None
                writer.write(data)
                await writer.drain()

    async def _cut(self, order: _Order, upload: Upload, last: bytes, writer: asyncio.StreamWriter) -> None:
        """The first bytes arrive, the rest never does."""
        self._order = None
        self.cut_at = time.monotonic()
        self.back_at = self.cut_at + order.away_s
        upload.bytes, upload.cut = upload.bytes + len(last), True
        self._noted(upload)
        writer.write(last)
        await writer.drain()
        self._drop(but=writer)
        await asyncio.sleep(order.away_s * SILENT)

    def _noted(self, upload: Upload) -> None:
        if not any(each is upload for each in self.uploads[-8:]):
            self.uploads.append(upload)

    def _drop(self, but: asyncio.StreamWriter | None = None) -> None:
        """End all connections at once."""
        for writer in self._writers - {but}:
            writer.transport.abort()
