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


def asked_as(observed: Observed, *hosts: str) -> int:
    """The status of a request under these names."""
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    with connect(observed) as connection:
        connection.sendall(f"GET /metrics HTTP/1.1\r\n{lines}\r\n".encode())
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    status = int(answer.split()[1])
    assert (b"figures" in answer) == (status == 200)
    return status


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize(
    "hosts",
    [("evil.example",), ("evil.example:9464",), ("127.0.0.1.evil.example",), ("localhost", "evil.example"),
     ("[::1",), ("[::1]x",), ("127.0.0.1:x",), ("",), ("localhost.",)],
)  # fmt: skip
def test_a_name_that_is_none_of_ours_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], checked: bool
) -> None:
    """As a page would ask whose name was made to lead here. The control: unchecked it is told all."""
    if not checked:
        monkeypatch.setattr(observe, "known", lambda *_: True)
    server = Observed(MetricsSection(port=0), lambda: b"figures\n", lambda: None)
    try:
        assert asked_as(server, *hosts) == (421 if checked else 200)
    finally:
        server.close()


def test_our_own_names() -> None:
    section = MetricsSection.model_validate({"port": 0, "names": ["Metrics.example.org"]})
    server = Observed(section, lambda: b"figures\n", lambda: None)
    own = ("localhost", "LOCALHOST:9464", "127.0.0.1", "10.2.3.4:9464", "[::1]:9464", "[::1]",
           "metrics.example.org:9464", socket.gethostname())  # fmt: skip
    try:
        assert {host: asked_as(server, host) for host in own} == dict.fromkeys(own, 200)
        assert asked_as(server) == 200  # no browser
    finally:
        server.close()


@pytest.mark.parametrize("each", [2, observe.AT_ONCE])
def test_one_address_keeps_out_no_other(monkeypatch: pytest.MonkeyPatch, each: int) -> None:
    """The control: where it may have all connections, it has them, again and again."""
    monkeypatch.setattr(observe, "EACH", each)
    server = Observed(MetricsSection(port=0), lambda: b"figures\n", lambda: None)
    port = int(server.url.rpartition(":")[2])
    idle = [connect(server) for _ in range(observe.AT_ONCE)]
    try:
        time.sleep(0.1)
        source = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", port), timeout=3, source_address=source) as other:
            with suppress(OSError):
                other.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            answer = b""
            with suppress(OSError):
                answer = other.recv(1 << 16)
        assert (b"200" in answer) == (each == 2)
    finally:
        for connection in idle:
            connection.close()
        server.close()


def test_who_does_not_take_the_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "READ_S", SOON_S)
    server = Observed(MetricsSection(port=0), lambda: bytes(32 << 20), lambda: None)
    slow = [connect(server) for _ in range(observe.EACH)]
    try:
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + 10 * SOON_S
        while server._server._from:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert ask(server, "/healthz") == b"ok\n"
    finally:
        for connection in slow:
            connection.close()
        server.close()


def test_so_many_at_once_and_no_more(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "EACH", 2 * observe.AT_ONCE)
    idle = [connect(observed) for _ in range(observe.AT_ONCE + 4)]
    try:
        for connection in idle:  # all are let go of, sooner or later
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert ask(observed, "/healthz") == b"ok\n"
    finally:
        for connection in idle:
            connection.close()
