"""Files over HTTP and nothing else, as fast as the standard library goes: the peer of `transfer`.

Server: a thread a connection; a download by sendfile, an upload read into one buffer and written, synced
before the answer. Client: `streams` connections kept alive, a thread each; what it downloads is written
and synced. Under TLS sendfile is not possible, and reads and writes take its place.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from benchmarks.machine import WRITE_BYTES
from benchmarks.puppets import Reply, obey

TIMEOUT_S = 120.0


class Reader(Protocol):
    def readinto(self, buffer: memoryview, /) -> int | None: ...


def to_disk(source: Reader, path: Path, size: int) -> None:
    """`size` bytes into a new file, synced."""
    buffer = memoryview(bytearray(WRITE_BYTES))
    with path.open("wb", buffering=0) as file:
        while size > 0:
            got = source.readinto(buffer[: min(size, WRITE_BYTES)])
            if not got:
                raise ConnectionError(f"{path.name} broke off")
            file.write(buffer[:got])
            size -= got
        os.fsync(file.fileno())


def to_socket(file: BinaryIO, to: socket.socket) -> None:
    """A whole file."""
    if not isinstance(to, ssl.SSLSocket):
        to.sendfile(file)
        return
    buffer = memoryview(bytearray(WRITE_BYTES))
    while got := file.readinto(buffer):  # type: ignore[attr-defined]
        to.sendall(buffer[:got])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        with (self.root / self.path[1:]).open("rb", buffering=0) as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            to_socket(file, self.connection)

    def do_PUT(self) -> None:
        reader: Any = self.rfile
        to_disk(reader, self.root / self.path[1:], int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass  # a client that has gone


def serve(request: Reply) -> dict[str, Callable[[], Reply | None]]:
    handler = type("Files", (Handler,), {"root": Path(request["root"])})
    server = Server(("127.0.0.1", 0), handler)
    if request["tls"]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*request["tls"])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"port": lambda: {"port": server.server_port}}


class Client:
    """One node: sends its own files, fetches the others'."""

    def __init__(self, request: Reply) -> None:
        self._port = request["port"]
        self._tls = ssl.create_default_context(cafile=request["ca"]) if request["ca"] else None
        self._own = [Path(path) for path in request["own"]]
        self._others: list[str] = request["others"]
        self._root = Path(request["root"])
        self._root.mkdir()
        self._here = threading.local()
        self._pool = ThreadPoolExecutor(request["streams"])

    def words(self) -> dict[str, Callable[[], Reply | None]]:
        return {
            "ready": lambda: None,
            "upload": lambda: self._each(self._upload, self._own),
            "download": lambda: self._each(self._download, self._others),
        }

    def _each(self, action: Callable[[Any], None], items: Iterable[Any]) -> None:
        list(self._pool.map(action, items))

    def _connection(self) -> HTTPConnection:
        made: HTTPConnection | None = getattr(self._here, "connection", None)
        if made is None:
            if self._tls is None:
                made = HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
            else:
                made = HTTPSConnection("127.0.0.1", self._port, timeout=TIMEOUT_S, context=self._tls)
            self._here.connection = made
            made.connect()
        return made

    def _upload(self, path: Path) -> None:
        connection = self._connection()
        with path.open("rb", buffering=0) as file:
            connection.putrequest("PUT", f"/{path.name}")
            connection.putheader("Content-Length", str(os.fstat(file.fileno()).st_size))
            connection.endheaders()
            to_socket(file, connection.sock)
        self._checked(connection).read()

    def _download(self, name: str) -> None:
        connection = self._connection()
        connection.request("GET", f"/{name}")
        response = self._checked(connection)
        to_disk(response, self._root / name, int(response.headers["Content-Length"]))
        response.read()

    @staticmethod
    def _checked(connection: HTTPConnection) -> Any:
        response = connection.getresponse()
        if response.status != 200:
            raise ConnectionError(f"the plain server answered {response.status}")
        return response


if __name__ == "__main__":
    obey(lambda request: serve(request) if request["side"] == "server" else Client(request).words())
