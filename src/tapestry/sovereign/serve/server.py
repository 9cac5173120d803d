"""The endpoint as a running server: bound, ready, and stopped without breaking off an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvicorn

from tapestry.errors import InputError
from tapestry.sovereign.serve.answers import encoded, error_object
from tapestry.sovereign.serve.app import Endpoint, Tell
from tapestry.sovereign.serve.engine import Engine
from tapestry.sovereign.serve.gate import Gate, is_loopback_address
from tapestry.sovereign.serve.requests import BadRequest
from tapestry.sovereign.serve.turns import Turns
from tapestry.transport import listening

GRACE_S: Final = 10.0
"""An answer that is being made gets so long when the endpoint is told to stop; told again, none."""
MAX_CONNECTIONS: Final = 256
KEEP_ALIVE_S: Final = 30
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Where:
    """The address of an endpoint."""

    host: str = LOOPBACK
    port: int = 8000
    token: str | None = None

    def check(self) -> None:
        """Raises `InputError` where others could reach it without a token."""
        if self.token is None and not (self.host == "localhost" or is_loopback_address(self.host)):
            raise InputError(
                f"{self.host} can be reached from other machines, and nothing would ask who they are",
                hint="leave --host out, or give --token-file a file of mode 0600 that holds a bearer token",
            )

    @property
    def on_loopback(self) -> bool:
        return self.host == "localhost" or is_loopback_address(self.host)


def serve(
    engine: Engine,
    where: Where,
    *,
    waiting: int,
    ready: Callable[[str], None],
    tell: Tell,
    stop: threading.Event | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT, or until `stop` is set where this is no main thread.

    Args:
        engine: the model.
        where: to listen.
        waiting: requests that may wait while one is answered.
        ready: told the URL once requests are answered.
        tell: told of events and numbers, never of text.
        stop: for tests, and whoever runs this in a thread.

    Raises:
        InputError: an address beyond loopback without a token.
        PortInUse, SettingsError: the address cannot be had.
    """
    where.check()
    engine.warm()
    with contextlib.closing(listening.listen(where.host, where.port, where="--host and --port")) as sock:
        asyncio.run(_run(engine, where, sock, waiting, ready, tell, stop))


async def _run(
    engine: Engine,
    where: Where,
    sock: socket.socket,
    waiting: int,
    ready: Callable[[str], None],
    tell: Tell,
    stop: threading.Event | None,
) -> None:
    line = Turns(engine, waiting=waiting)
    app = Gate(Endpoint(engine, line, tell).app(), tell=tell, token=where.token, named=where.on_loopback)
    server = listening.Server(_config(app))
    _silence()
    told = asyncio.Event()
    http = asyncio.create_task(server.serve(sockets=[sock]))
    watch = asyncio.create_task(_watched(stop, told))

    def on_signal() -> None:
        if told.is_set():
            line.break_off()
        told.set()

    try:
        with listening.stopped_by_signals(on_signal):
            while not server.started and not http.done():
                await asyncio.sleep(0.005)
            if server.started:
                ready(url_of(where.host, sock))
            waits = asyncio.create_task(told.wait())
            await asyncio.wait({http, waits}, return_when=asyncio.FIRST_COMPLETED)
            waits.cancel()
            line.stop()
            server.should_exit = True
            late = asyncio.get_running_loop().call_later(GRACE_S, line.break_off)
            await asyncio.gather(http, return_exceptions=True)
            late.cancel()
    finally:
        watch.cancel()
        await asyncio.to_thread(line.close)
    if not http.cancelled() and (error := http.exception()) is not None:
        raise error


async def _watched(stop: threading.Event | None, told: asyncio.Event) -> None:
    while stop is not None and not stop.is_set():
        await asyncio.sleep(0.02)
    if stop is not None:
        told.set()


class _Connection(listening.Connection):
    """Says in the endpoint's own shape that something is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        body = encoded(error_object(BadRequest("this is no valid HTTP request"), 400))
        head = f"HTTP/1.1 400 \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()


def _config(app: Gate) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=listening.MAX_HEADER_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(GRACE_S) + 5,
    )
    config.load()
    return config


def _silence() -> None:
    """Libraries' own logs may quote what was sent."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def url_of(host: str, sock: socket.socket) -> str:
    """What a client on this machine calls the endpoint."""
    named = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{named}]' if ':' in named else named}:{sock.getsockname()[1]}"
