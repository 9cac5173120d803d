"""A dashboard behind a real server on loopback, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp

T = TypeVar("T")


def run_apart(made: Coroutine[Any, Any, T]) -> T:
    """In a thread of its own: a browser of other tests has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, made).result()


@contextmanager
def served(app: ASGIApp, config: uvicorn.Config | None = None) -> Iterator[str]:
    """Its address. `config`: of the server, instead of one of the tests' own."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = config or uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), "the dashboard does not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        site = getattr(getattr(app, "state", None), "site", None)
        if site is not None:
            site.live.close()
        server.should_exit = True
        thread.join(20)
        sock.close()
