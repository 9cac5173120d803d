"""The listener for whoever watches a process: nobody who asks slowly, or not at all, keeps others waiting."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tapestry.transport import observe
from tapestry.transport.observe import MetricsSection, Observed

SOON_S = 0.5


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Observed]:
    monkeypatch.setattr(observe, "READ_S", SOON_S)
    server = Observed(MetricsSection(port=0), lambda: b"figures\n", lambda: None)
    yield server
    server.close()


def ask(observed: Observed, path: str) -> bytes:
    with urllib.request.urlopen(observed.url + path, timeout=10) as answer:
        return bytes(answer.read())


def connect(observed: Observed) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(observed.url.rpartition(":")[2])), timeout=10)


def test_it_answers(observed: Observed) -> None:
    assert (ask(observed, "/metrics"), ask(observed, "/healthz?x")) == (b"figures\n", b"ok\n")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(observed, "/")


def test_who_asks_slowly_is_cut_off_and_holds_up_nobody(observed: Observed) -> None:
    """A byte now and then resets any patience that is only for the next one."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
            while not ended.wait(0.05):
                connection.sendall(b"x")

    with connect(observed) as slow:
        thread = threading.Thread(target=drip, args=(slow,))
        thread.start()
        try:
            began = time.monotonic()
            assert ask(observed, "/healthz") == b"ok\n"
            assert time.monotonic() - began < SOON_S
            slow.settimeout(10)
            with suppress(ConnectionResetError):
                while slow.recv(1 << 16):
                    pass
        finally:
            ended.set()
            thread.join()


def test_so_many_at_once_and_no_more(observed: Observed) -> None:
    idle = [connect(observed) for _ in range(observe.AT_ONCE + 4)]
    try:
        for connection in idle:  # all are let go of, sooner or later
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert ask(observed, "/healthz") == b"ok\n"
    finally:
        for connection in idle:
            connection.close()
