"""Where a repository is read from: a folder, or a web server. Neither is believed."""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Self

import httpx
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    SlowRetrievalError,
)
from tuf.ngclient import FetcherInterface

from tapestry import __version__

PATIENCE_S: Final = 30.0
"""For the next bytes."""
PIECE_BYTES: Final = 1 << 20
LEAST_BYTES_PER_S: Final = 1024
"""On the whole, once `PATIENCE_S` have passed: who sends less holds a client up for ever."""
NOT_FOUND: Final = 404


class Source(FetcherInterface):
    """Files of a repository by their path in it, in pieces."""

    def close(self) -> None:
        """Let go of connections."""

    @abstractmethod
    def pieces(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `offset` on; errors of `tuf.api.exceptions`."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.pieces(url)

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """As the library's, but for failures in the middle, which it lets through as they are."""
        try:
            with super().download_file(url, max_length) as file:
                yield file
        except OSError as e:
            raise DownloadError(f"{url}: {e}") from e

    def receive(
        self, path: str, into: Path, length: int, told: Callable[[int], None] = lambda _: None
    ) -> None:
        """Write a file of at most so many bytes; goes on where it was broken off."""
        offset = into.stat().st_size if into.exists() else 0
        if offset > length:
            into.unlink()
            offset = 0
        if offset == length and length:
            return
        with into.open("ab") as out:
            for piece in self.pieces(path, offset):
                offset += len(piece)
                if offset > length:
                    raise DownloadLengthMismatchError(
                        f"{path} has more than the {length} bytes that were signed"
                    )
                out.write(piece)
                told(offset)


class Folder(Source):
    """A repository in a folder, a copy of one included."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def pieces(self, path: str, offset: int = 0) -> Iterator[bytes]:
        try:
            # A pipe would be waited for until somebody writes into it.
            with open(self._root / path, "rb", opener=_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DownloadError(f"{path} is no file")
                file.seek(offset)
                while piece := file.read(PIECE_BYTES):
                    yield piece
        except (FileNotFoundError, NotADirectoryError) as e:
            raise DownloadHTTPError(f"there is no {path}", NOT_FOUND) from e
        except OSError as e:
            raise DownloadError(f"{path}: {e.strerror}") from e


class Web(Source):
    """A repository on a web server; any that gives out files will do. Redirects are not followed."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        headers = {"Accept-Encoding": "identity", "User-Agent": f"tapestry/{__version__}"}
        self._client = httpx.Client(timeout=PATIENCE_S, headers=headers)
        self._stream: Any = None

    def close(self) -> None:
        self._client.close()

    def pieces(self, path: str, offset: int = 0) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with _Watch(self._connected) as watch:
            try:
                yield from self._answer(path, offset, headers, watch)
            except (httpx.HTTPError, httpx.InvalidURL) as e:
                if not watch.cut:
                    raise DownloadError(f"{self._url}/{path} cannot be read: {e}") from e
            if watch.cut:
                raise SlowRetrievalError(f"{path} comes at less than {LEAST_BYTES_PER_S} bytes a second")

    def _answer(self, path: str, offset: int, headers: dict[str, str], watch: _Watch) -> Iterator[bytes]:
        told: dict[str, Any] = {"trace": self._trace}
        with self._client.stream("GET", f"{self._url}/{path}", headers=headers, extensions=told) as answer:
            if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise DownloadHTTPError(f"{path}: status {answer.status_code}", answer.status_code)
            skip = offset if answer.status_code == httpx.codes.OK else 0
            for piece in answer.iter_raw():
                watch.received += len(piece)
                yield piece[skip:]
                skip = max(0, skip - len(piece))

    def _trace(self, name: str, told: dict[str, Any]) -> None:
        """Keeps the newest connection; one is in use at a time."""
        if name.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._stream = told["return_value"]

    def _connected(self) -> socket.socket | None:
        return None if self._stream is None else self._stream.get_extra_info("socket")


class _Watch:
    """Cuts a connection on which too little of a file comes. From another thread, since a head without an
    end, or one "100 Continue" after the other, never gives the reader a byte to count.

    Args:
        connection: the socket now in use.
    """

    def __init__(self, connection: Callable[[], socket.socket | None]) -> None:
        self._connection = connection
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.received = 0
        self.cut = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        begun = time.monotonic()
        while not self._done.wait(PATIENCE_S / 4):
            took = time.monotonic() - begun
            if took > PATIENCE_S and self.received < LEAST_BYTES_PER_S * took:
                self.cut = True
                connection = self._connection()
                if connection is not None:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def open_source(given: str) -> Source:
    """By address or folder."""
    return Web(given) if given.startswith(("http://", "https://")) else Folder(Path(given))
