"""HTTP/1.1 for bulk bytes: http.client under an httpx client.

TLS hands out records of 16 KiB, and httpx's own transport takes each through a parser in Python. Here the C
code of the standard library gathers them, so that a body costs few steps of Python a piece.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Final

import httpx

PIECE_BYTES: Final = 256 << 10
"""Of a body that comes in."""
DEFAULT_S: Final = 30.0

Key = tuple[str, str, int]


class Sockets(httpx.BaseTransport):
    """Connections that are kept alive, as many as there are requests at once. Safe from several threads.

    Args:
        context: whom to trust, for `https`.
        kept: idle connections kept at most.

    Raises (from `handle_request` and from reading the body): `httpx.TransportError`, as httpx's own does.
    """

    def __init__(self, context: ssl.SSLContext | None, *, kept: int) -> None:
        self._context = context
        self._kept = kept
        self._lock = threading.Lock()
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        key = _key(request.url)
        timeout = request.extensions.get("timeout", {})
        connect_s, read_s = (timeout.get(name, DEFAULT_S) for name in ("connect", "read"))
        connection = self._take(key)
        try:
            if connection is None:
                connection = self._connect(key, connect_s)
            connection.sock.settimeout(read_s)
            with _translated(httpx.ReadError, httpx.ReadTimeout):
                response = _asked(connection, request)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return httpx.Response(
            response.status,
            headers=[
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()
            ],
            stream=_Body(self, key, connection, response),
            request=request,
        )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def give_back(self, key: Key, connection: http.client.HTTPConnection) -> None:
        """A connection whose answer was read to its end."""
        with self._lock:
            kept = self._idle.setdefault(key, [])
            if not self._closed and len(kept) < self._kept:
                kept.append(connection)
                return
        connection.close()

    def _take(self, key: Key) -> http.client.HTTPConnection | None:
        """An idle connection that the peer has not closed meanwhile."""
        while True:
            with self._lock:
                kept = self._idle.get(key)
                connection = kept.pop() if kept else None
            if connection is None or not _readable(connection.sock):
                return connection
            connection.close()

    def _connect(self, key: Key, timeout_s: float) -> http.client.HTTPConnection:
        scheme, host, port = key
        connection: http.client.HTTPConnection
        if scheme == "https":
            context = self._context or ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        with _translated(httpx.ConnectError, httpx.ConnectTimeout):
            connection.connect()
        return connection


def _key(url: httpx.URL) -> Key:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _asked(connection: http.client.HTTPConnection, request: httpx.Request) -> http.client.HTTPResponse:
    """Send a request; the head of its answer, which may come before all of the body was sent."""
    connection.putrequest(
        request.method, request.url.raw_path.decode("ascii"), skip_host=True, skip_accept_encoding=True
    )
    for name, value in request.headers.raw:
        connection.putheader(name.decode("ascii"), value)
    try:
        with _translated(httpx.WriteError, httpx.WriteTimeout):
            connection.endheaders()
            assert isinstance(request.stream, httpx.SyncByteStream)  # noqa: S101 - of a client that is not async
            for piece in request.stream:
                connection.send(piece)
    except httpx.WriteError:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return connection.getresponse()
        raise
    return connection.getresponse()


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _Body(httpx.SyncByteStream):
    def __init__(
        self,
        owner: Sockets,
        key: Key,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self._owner = owner
        self._key = key
        self._connection: http.client.HTTPConnection | None = connection
        self._response = response
        self._whole = False
        """Whether the connection is fit for the next request."""

    def __iter__(self) -> Iterator[bytes]:
        room = memoryview(bytearray(PIECE_BYTES))
        while True:
            with _translated(httpx.ReadError, httpx.ReadTimeout):
                size = self._response.readinto(room)
            if size == 0:
                break
            yield bytes(room[:size])
        if self._response.length:
            raise httpx.RemoteProtocolError("the peer closed the connection in the middle of an answer")
        self._whole = not self._response.will_close

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._whole:
            self._owner.give_back(self._key, connection)
        else:
            self._response.close()
            connection.close()


@contextlib.contextmanager
def _translated(failed: type[httpx.TransportError], late: type[httpx.TransportError]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as e:
        raise late(str(e) or "timed out") from e
    except http.client.HTTPException as e:
        raise httpx.RemoteProtocolError(str(e) or type(e).__name__) from e
    except ValueError as e:  # the file of a connection that was closed meanwhile
        raise failed(str(e)) from e
    except OSError as e:
        gone = isinstance(e, http.client.RemoteDisconnected)
        raise (httpx.RemoteProtocolError if gone else failed)(str(e) or type(e).__name__) from e
