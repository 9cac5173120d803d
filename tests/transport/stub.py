"""A core that misbehaves on demand: a real uvicorn server on loopback around a plain ASGI function."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.messages import RequestProof
from tapestry.protocol.views import Hello

CONSORTIUM = "c" * 64
CORE_KEY = "d" * 64
TIME = "2026-05-01T12:00:00.000Z"
KEY = KeyPair.generate()
"""The node's, which signs the requests."""


class Broken(Exception):
    """Raised in the middle of an answer: uvicorn then closes the connection."""


class StubCore:
    """Holds blobs, takes uploads; `faults` are taken off the front, one per blob request.

    A fault is a function of (body, offset) → pieces to send, in which `Broken` ends the connection;
    for uploads it is a number of bytes after which the connection is closed.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.partial: dict[str, bytes] = {}
        self.faults: list[Any] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: dict[str, Any] = {}
        """Path → function that gives (status, headers, body)."""
        self.time = TIME
        self.url = ""
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        sha = canonical.sha256(data)
        self.blobs[sha] = data
        return sha

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path, query = scope["path"], scope["query_string"].decode()
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        self.requests.append((scope["method"], path + ("?" + query if query else ""), headers))
        if path in self.answers:
            status, more, body = self.answers[path]()
            await self._say(send, status, body, more)
        elif path == "/v1/hello":
            hello = Hello(consortium=CONSORTIUM, core_key=CORE_KEY, release="0", formats={}, time=self.time)
            await self._say(send, 200, hello.to_bytes())
        elif path == "/v1/blobs/missing":
            asked = canonical.decode(await self._body(receive))["blobs"]
            missing = {s: len(self.partial.get(s, b"")) for s in asked if s not in self.blobs}
            await self._say(send, 200, canonical.encode({"missing": missing}))
        elif path.startswith("/v1/blobs/"):
            with self._lock:
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
            try:
                await (self._get if scope["method"] == "GET" else self._put)(
                    path.removeprefix("/v1/blobs/"), query, headers, receive, send
                )
            finally:
                with self._lock:
                    self._now -= 1
        else:
            await self._error(send, 404, "not-found", "nothing here")

    async def _get(self, sha: str, _query: str, headers: dict[str, str], _receive: Any, send: Any) -> None:
        data = self.blobs.get(sha)
        if data is None:
            await self._error(send, 404, "not-found", "no such blob")
            return
        start = int(headers["range"].removeprefix("bytes=").rstrip("-")) if "range" in headers else 0
        more = {"content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        await asyncio.sleep(0.01)
        fault = self.faults.pop(0) if self.faults else None
        pieces = [data[start:]] if fault is None else fault(data[start:], start)
        await self._start(send, 206 if start else 200, {"content-length": str(len(data) - start), **more})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, sha: str, query: str, _headers: dict[str, str], receive: Any, send: Any) -> None:
        known = dict(part.split("=") for part in query.split("&"))
        size, offset = int(known["bytes"]), int(known["offset"])
        have = self.partial.get(sha, b"")
        if offset != len(have):
            await self._error(send, 409, "conflict", f"goes on at byte {len(have)}")
            return
        fault = self.faults.pop(0) if self.faults else None
        if callable(fault):
            status, code = fault()
            await self._body(receive)
            await self._error(send, status, code, "as the test wants it")
            return
        while True:
            message = await receive()
            have += message.get("body", b"")
            if fault is not None and len(have) >= offset + fault:
                self.partial[sha] = have[: offset + fault]
                raise Broken
            self.partial[sha] = have
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        if len(have) == size:
            del self.partial[sha]
            if canonical.sha256(have) != sha:
                await self._error(send, 400, "hash-mismatch", "other bytes")
                return
            self.blobs[sha] = have
        await self._say(send, 200, b"{}")

    @staticmethod
    async def _body(receive: Any) -> bytes:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body

    async def _start(self, send: Any, status: int, headers: dict[str, str]) -> None:
        named = {"tapestry-time": self.time, **headers}
        raw = [(k.encode(), v.encode()) for k, v in named.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})

    async def _say(self, send: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        await self._start(send, status, {"content-length": str(len(body)), **(headers or {})})
        await send({"type": "http.response.body", "body": body})

    async def _error(self, send: Any, status: int, code: str, message: str) -> None:
        body = canonical.encode({"error": {"code": code, "message": message, "hint": None}})
        await self._say(send, status, body)


def truncated(after: int) -> Callable[[bytes, int], Iterator[bytes]]:
    """Ends the connection in the middle of a body."""

    def fault(body: bytes, _offset: int) -> Iterator[bytes]:
        yield body[:after]
        raise Broken

    return fault


def altered(at: int) -> Callable[[bytes, int], Iterator[bytes]]:
    """Flips one bit."""

    def fault(body: bytes, _offset: int) -> Iterator[bytes]:
        yield body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

    return fault


@contextmanager
def served(app: StubCore) -> Iterator[StubCore]:
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    app.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield app
    server.should_exit = True
    thread.join(20)


def proof_of(headers: dict[str, str]) -> RequestProof:
    token = headers["authorization"].removeprefix("Tapestry ")
    envelope = Envelope.from_bytes(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return envelope.open_as(RequestProof, KEY.public_key)
