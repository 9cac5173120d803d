"""A real S3 service for tests (moto's server, a process of its own), and a proxy that spoils its answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Moto takes any, unless `Server.guarded`."""
_ANYBODY = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)


class Server:
    """Moto's S3 service on a free port."""

    def __init__(self, program: str, log: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        with log.open("wb") as out:
            command = [program, "-H", "127.0.0.1", "-p", str(self.port)]
            self._process = subprocess.Popen(command, stdout=out, stderr=out)
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/moto-api/", trust_env=False)
                return
            except httpx.TransportError:
                assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)

    def bucket(self) -> str:
        """The URL of a new bucket."""
        name = f"t{secrets.token_hex(6)}"
        headers = {"Authorization": _ANYBODY}
        httpx.put(f"{self.url}/{name}", headers=headers, trust_env=False).raise_for_status()
        return f"s3://{name}"

    def object(self, url: str, name: str) -> str:
        return f"{self.url}/{url.removeprefix('s3://').strip('/')}/{name}"

    def replace(self, url: str, name: str, data: bytes) -> None:
        """Behind everybody's back."""
        headers = {"Authorization": _ANYBODY}
        httpx.put(self.object(url, name), content=data, headers=headers, trust_env=False).raise_for_status()

    def delete(self, url: str, name: str) -> None:
        httpx.delete(
            self.object(url, name), headers={"Authorization": _ANYBODY}, trust_env=False
        ).raise_for_status()

    def names(self, url: str) -> list[str]:
        """All objects of a bucket."""
        import obstore
        from obstore.store import S3Store

        options: Any = {"allow_http": True}
        config: Any = {**KEYS, "aws_endpoint": self.url}
        store = S3Store(url.removeprefix("s3://").split("/")[0], config=config, client_options=options)
        return sorted(str(entry["path"]) for chunk in obstore.list(store) for entry in chunk)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Only keys that its IAM knows are let in, and it knows none."""
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0", trust_env=False).raise_for_status()
        try:
            yield
        finally:
            httpx.post(f"{self.url}/moto-api/reset-auth", content=b"inf", trust_env=False).raise_for_status()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which("moto_server", path=path)
    if program is None:
        pytest.skip("no S3 service to test with: moto_server is not installed; make test does it")
    running = Server(program, folder / "moto.log")
    try:
        yield running
    finally:
        running.stop()


Change = Callable[[int, bytes], tuple[int, bytes, int]]
"""Takes status and body of an answer; gives what is sent instead: status, body, and how much of it before the
connection is closed."""


def truncated(status: int, body: bytes) -> tuple[int, bytes, int]:
    return status, body, len(body) // 2


def flipped(status: int, body: bytes) -> tuple[int, bytes, int]:
    changed = bytes([body[0] ^ 1]) + body[1:]
    return status, changed, len(changed)


def shortened(status: int, body: bytes) -> tuple[int, bytes, int]:
    """Says that the half is all."""
    half = body[: len(body) // 2]
    return status, half, len(half)


def answers(status: int, code: str) -> Change:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()
    return lambda *_: (status, body, len(body))


@dataclass
class Proxy:
    """Stands before a service. `faults` are for the next requests that are meant."""

    target: Server
    method: str = ""
    """Of the requests that are meant; the others pass."""
    after: int = 0
    """How many of them pass before that."""
    times: int = 0
    """How many of them are answered wrongly then."""
    change: Change | None = None
    """None: the connection is closed without an answer."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def spoil(self, method: str, change: Change | None, *, times: int = 1 << 30, after: int = 0) -> None:
        self.method, self.times, self.after, self.change = method, times, after, change

    def heal(self) -> None:
        self.times = 0

    def count(self, method: str) -> int:
        return sum(1 for one, _ in self.seen if one == method)

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        outer = self
        open_now: set[socket.socket] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                open_now.add(self.connection)
                with contextlib.suppress(ConnectionError):  # a client that was killed
                    super().handle()

            def finish(self) -> None:
                open_now.discard(self.connection)
                super().finish()

            def handle_any(self) -> None:
                outer._pass_on(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = False  # those are waited for, so that none leaves its socket behind
        self.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            httpd.shutdown()
            thread.join()
            for connection in list(open_now):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            httpd.server_close()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        method, path = request.command, request.path
        self.seen.append((method, path))
        meant = self.times > 0 and method == self.method
        if meant and self.after > 0:
            self.after, meant = self.after - 1, False
        if meant:
            self.times -= 1
            if self.change is None:
                request.close_connection = True
                return
            if method not in ("GET", "HEAD"):  # a refusal: the service hears nothing of it
                status, data, _ = self.change(200, b"")
                request.send_response_only(status)
                request.send_header("Content-Length", str(len(data)))
                request.end_headers()
                request.wfile.write(data)
                return
        connection = http.client.HTTPConnection("127.0.0.1", self.target.port, timeout=30)
        try:
            headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        status, sent = answer.status, len(data)
        length = answer.headers.get("Content-Length", "0") if method == "HEAD" else None
        if meant and self.change is not None:
            status, data, sent = self.change(status, data)
        request.send_response_only(status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                request.send_header(name, value)
        request.send_header("Content-Length", length or str(len(data)))
        request.end_headers()
        if method != "HEAD":
            request.wfile.write(data[:sent])
        if sent < len(data):
            request.close_connection = True
