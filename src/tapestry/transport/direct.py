"""Between node and object store, by a signed URL the core has given.

The URL is a credential, so it is in no error and no log line: the requests pass below `httpx.Client`, which
logs the URL of each. No proof goes to the store and no redirect is followed. The store is believed nothing:
what comes is as long as it should be, and hashed by whoever writes it. Every failure is an `Astray`: the core
relays then.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import httpx

from tapestry.errors import PeerError, SettingsError
from tapestry.protocol import canonical
from tapestry.transport import wire
from tapestry.transport.connection import FOREIGN, Traffic, head_bytes, tls
from tapestry.transport.sockets import Sockets

FAILURES: Final = 3
"""After so many in a row, or one without a connection, the store is left alone for a while."""
PAUSE_S: Final = 600.0
MAX_URL_BYTES: Final = 8 << 10
MAX_ANSWER_BYTES: Final = 64 << 10
"""Read of what a store says to an upload."""


class Astray(Exception):
    """The direct way failed. Never leaves this room."""


class Direct:
    """Requests to whichever store the core names. Safe to use from several threads.

    Args:
        wanted: False lets everything be relayed.
        secure: only `https` URLs are followed.
        ca: an authority that is trusted beside the system's.
        connections: at once.
        connect_s: patience for a connection.
        read_s: patience for the next bytes.
        traffic: counts these requests too.
    """

    def __init__(
        self,
        *,
        wanted: bool,
        secure: bool,
        ca: Path | str | None,
        connections: int,
        connect_s: float,
        read_s: float,
        traffic: Traffic,
    ) -> None:
        self._wanted = wanted
        self._schemes = ("https",) if secure else ("https", "http")
        self._ca = ca
        self._connections = connections
        self._timeout = httpx.Timeout(read_s, connect=connect_s)
        self._traffic = traffic
        self._lock = threading.Lock()
        self._transport: Sockets | None = None
        self._failures = 0
        self._paused_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is worth trying."""
        return self._wanted and time.monotonic() >= self._paused_until

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()

    def failed(self, times: int = 1) -> None:
        """What came was no good."""
        with self._lock:
            self._failures += times
            if self._failures >= FAILURES:
                self._failures, self._paused_until = 0, time.monotonic() + PAUSE_S

    @contextlib.contextmanager
    def get(self, url: str, offset: int) -> Iterator[httpx.Response]:
        """An object from `offset` on, or from its beginning where the status is 200.

        A `PeerError` inside the block is an `Astray` outside.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._open("GET", url, headers, None) as response:
            yield response

    def put(self, url: str, pieces: Iterator[bytes], size: int) -> None:
        """Write an object of `size` bytes."""
        headers = {
            "Content-Length": str(size),
            "Content-Type": "application/octet-stream",
            "x-ms-blob-type": "BlockBlob",  # Azure wants it; the others pass over it
        }
        with self._open("PUT", url, headers, pieces) as response:
            read = 0
            for piece in response.iter_raw():
                self._traffic.add(received=len(piece))
                if (read := read + len(piece)) > MAX_ANSWER_BYTES:
                    break

    @contextlib.contextmanager
    def _open(
        self,
        method: Literal["GET", "PUT"],
        url: str,
        headers: Mapping[str, str],
        pieces: Iterator[bytes] | None,
    ) -> Iterator[httpx.Response]:
        try:
            response = self._send(method, url, headers, pieces)
            try:
                if response.status_code not in (200, 201, 204, 206):
                    raise PeerError(f"the object store answered {response.status_code}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise PeerError("the object store sent a compressed answer")
                yield response
            finally:
                response.close()
        except (PeerError, SettingsError, *FOREIGN) as e:
            away = isinstance(e, httpx.ConnectError | httpx.ConnectTimeout)
            self.failed(FAILURES if away else 1)
            raise Astray(type(e).__name__) from None
        with self._lock:
            self._failures = 0

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], pieces: Iterator[bytes] | None
    ) -> httpx.Response:
        self._check(url)
        request = httpx.Request(
            method,
            url,
            headers={"Accept-Encoding": "identity", "User-Agent": "tapestry", **headers},
            content=None if pieces is None else self._counted(pieces),
            extensions={"timeout": self._timeout.as_dict()},
        )
        start = len(method) + len(request.url.raw_path) + len("  HTTP/1.1\r\n")
        self._traffic.add(requests=1, sent=head_bytes(start, request.headers))
        response = self._connected().handle_request(request)
        self._traffic.add(received=head_bytes(len("HTTP/1.1 200 OK\r\n"), response.headers))
        return response

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            good = bool(parts.hostname) and parts.port != 0 and parts.username is None
        except ValueError:
            good = False
        if not good or parts.scheme not in self._schemes:
            raise PeerError("the core names an object store this node does not go to")

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._traffic.add(sent=len(piece))
            yield piece

    def _connected(self) -> Sockets:
        with self._lock:
            if self._transport is None:
                self._transport = Sockets(_trust(self._ca), kept=self._connections)
            return self._transport


def read_url(body: bytes) -> str | None:
    """The signed URL in an answer of the core; None where it gives none. Raises `PeerError`."""
    value = canonical.decode(body, what="answer of the core", max_bytes=wire.MAX_DIRECT_BYTES)
    url = value.get("url", 0) if isinstance(value, dict) else 0
    if url is None:
        return None
    if not isinstance(url, str) or len(url) > MAX_URL_BYTES or not url.isascii() or not url.isprintable():
        raise PeerError("the core's answer has no address of an object store")
    return url


def _trust(ca: Path | str | None) -> ssl.SSLContext:
    """The system's authorities and, for a store of the core's own house, the core's."""
    context = tls(None)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=str(ca))
        except (OSError, ssl.SSLError) as e:
            raise SettingsError(f"CA file {ca} cannot be used: {e}") from e
    return context
