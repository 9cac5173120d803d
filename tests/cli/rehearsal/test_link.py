"""The relay of a rehearsal: what passes, what a cut leaves, who answers afterwards."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tapestry.cli.rehearsal.link import HOST, UPLOAD_BYTES, Link


class Server(socketserver.ThreadingTCPServer):
    """Takes bytes; says its name for each `?`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, name: bytes) -> None:
        super().__init__((HOST, 0), Handler)
        self.name, self.taken, self.ended = name, bytearray(), 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        with suppress(OSError):
            while data := self.request.recv(1 << 16):
                self.server.taken += data
                self.request.sendall(self.server.name * data.count(b"?"))
        self.server.ended += 1


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(b"A"), Server(b"B")
    yield both
    for each in both:
        each.shutdown()
        each.server_close()


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(link: Link) -> bytes:
    with socket.create_connection((HOST, link.port), timeout=5) as sock:
        sock.sendall(b"?")
        return sock.recv(10)


def test_bytes_pass_both_ways(servers: tuple[Server, Server]) -> None:
    with Link(servers[0].port) as link:
        assert ask(link) == b"A"
        with socket.create_connection((HOST, link.port), timeout=5) as sock:
            sock.sendall(b"x" * 100_000 + b"?")
            assert sock.recv(10) == b"A"
    assert len(servers[0].taken) == 100_002
    assert [each.bytes for each in link.uploads] == [100_001]


def test_a_cut_lets_so_many_bytes_pass_and_is_away(servers: tuple[Server, Server]) -> None:
    with Link(servers[0].port) as link:
        link.cut_in_upload(50_000, away_s=0.5)
        bystander = socket.create_connection((HOST, link.port), timeout=5)
        assert ask(link) == b"A", "a small request is no upload"
        with socket.create_connection((HOST, link.port), timeout=5) as sock, pytest.raises(OSError):
            for _ in range(100):
                sock.sendall(b"x" * 1000)
                time.sleep(0.002)
            sock.sendall(b"?")
            assert not sock.recv(10)
            raise ConnectionError
        until(lambda: len(servers[0].taken) == 50_001)
        assert link.cut_at is not None
        assert [(each.bytes, each.cut) for each in link.uploads] == [(50_000, True)]
        with pytest.raises(OSError):
            bystander.sendall(b"?")
            assert not bystander.recv(10), "every connection is cut"
            raise ConnectionError
        bystander.close()
        with pytest.raises(OSError):
            assert not ask(link)
            raise ConnectionError
        assert link.refused >= 1
        time.sleep(max(0.0, link.back_at - time.monotonic()) + 0.05)
        assert ask(link) == b"A"
        until(lambda: servers[0].ended >= 3)
    assert UPLOAD_BYTES < 50_000


def test_it_can_lead_elsewhere(servers: tuple[Server, Server]) -> None:
    with Link(servers[0].port) as link:
        held = socket.create_connection((HOST, link.port), timeout=5)
        held.sendall(b"?")
        assert held.recv(10) == b"A"
        link.lead_to(servers[1].port)
        with suppress(ConnectionError):
            assert held.recv(10) == b"", "it ended"
        held.close()
        assert ask(link) == b"B"


def test_a_target_that_is_gone_ends_the_connection() -> None:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port = sock.getsockname()[1]
    with Link(port) as link, suppress(ConnectionError):
        assert ask(link) == b""
