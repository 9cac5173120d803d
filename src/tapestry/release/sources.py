"""Where a repository is read from: a folder, or a web server. Neither is believed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

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

    def pieces(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `offset` on; errors of `tuf.api.exceptions`."""
        raise NotImplementedError

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
            with (self._root / path).open("rb") as file:
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

    def close(self) -> None:
        self._client.close()

    def pieces(self, path: str, offset: int = 0) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        begun, received = time.monotonic(), 0
        try:
            with self._client.stream("GET", f"{self._url}/{path}", headers=headers) as answer:
                if answer.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                    raise DownloadHTTPError(f"{path}: status {answer.status_code}", answer.status_code)
                skip = offset if answer.status_code == httpx.codes.OK else 0
                for piece in answer.iter_raw():
                    received += len(piece)
                    took = time.monotonic() - begun
                    if took > PATIENCE_S and received < LEAST_BYTES_PER_S * took:
                        raise SlowRetrievalError(
                            f"{path} comes at less than {LEAST_BYTES_PER_S} bytes a second"
                        )
                    yield piece[skip:]
                    skip = max(0, skip - len(piece))
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise DownloadError(f"{self._url}/{path} cannot be read: {e}") from e


def open_source(given: str) -> Source:
    """By address or folder."""
    return Web(given) if given.startswith(("http://", "https://")) else Folder(Path(given))
