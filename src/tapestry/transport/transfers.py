"""Blobs over HTTP: several at once, resumed where they broke off, verified before they get a name.

Where the core offers it, a blob goes straight to or from its object store; what fails on that way is relayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeVar

import httpx

from tapestry.errors import (
    Conflict,
    FormatError,
    HashMismatch,
    IntegrityError,
    PeerError,
    ProtocolError,
    TooLarge,
    Unreachable,
)
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.transport import wire
from tapestry.transport.connection import Answer, Connection, Request, read_error
from tapestry.transport.direct import Astray, Direct, read_url

T = TypeVar("T")

PIECE_BYTES: Final = 256 << 10
"""Read from a file and given to the socket at once."""
TRIES: Final = 3
"""How often a transfer that makes no headway is begun again before its error is raised."""
DIRECT_TRIES: Final = 2
"""How often a blob is fetched from the object store before the core is to relay it."""
TAKING_S: Final = 120.0
"""The core reads what was put into its store before it answers; it may take so much longer."""


class Writer(Protocol):
    """Takes one blob as it comes; `storage.blobs.Receiver` is one."""

    offset: int
    complete: bool

    def write(self, data: bytes, /) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class Blobs(Protocol):
    """What a client needs of a blob folder; `storage.blobs.BlobStore` satisfies it."""

    def path(self, sha: str, /) -> Path: ...
    def receive(self, expected: Blob, /, durable: bool = ...) -> Writer: ...


class Transfers:
    """Uploads and downloads over one connection and past it, `parallel` at once."""

    def __init__(self, connection: Connection, direct: Direct, *, chunk_bytes: int, parallel: int) -> None:
        self._connection = connection
        self._direct = direct
        self._chunk_bytes = chunk_bytes
        self._pool = ThreadPoolExecutor(parallel, "transfer")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- to the core ----------------------------------------------------------------------------

    def missing(self, shas: Sequence[str]) -> dict[str, int]:
        """Of these, the blobs the core lacks, each with the bytes of it that it has."""
        return self._missing(shas)[0]

    def _missing(self, shas: Sequence[str]) -> tuple[dict[str, int], int | None]:
        """The same, and from how many bytes on a blob may go to the object store; None for never."""
        found: dict[str, int] = {}
        least: int | None = None
        for start in range(0, len(shas), wire.MAX_MISSING):
            body = canonical.encode({"blobs": list(shas[start : start + wire.MAX_MISSING])})
            request = Request(method="POST", path="/v1/blobs/missing", body=body)
            answer = self._connection.ask(request, cap=2 * wire.MAX_MISSING_BYTES)
            offsets, least = _offsets(answer)
            found.update(offsets)
        return {sha: found[sha] for sha in shas if sha in found}, least

    def upload(self, blobs: Sequence[Blob], store: Blobs, before: Callable[[], None] = lambda: None) -> int:
        wanted = {blob.sha256: blob for blob in blobs}
        lacking, least = self._missing(list(wanted))
        jobs = [(wanted[sha], offset) for sha, offset in lacking.items()]

        def send(job: tuple[Blob, int]) -> int:
            blob, offset = job
            before()
            direct = least is not None and blob.bytes >= least and offset == 0 and self._direct.usable
            if direct and self._put_directly(blob, store):
                return blob.bytes
            return self._upload(blob, offset, store, before)

        return sum(self._each(send, jobs))

    def _put_directly(self, blob: Blob, store: Blobs) -> bool:
        """Whether the core has the blob now. What is wrong with the core itself shows when it relays."""
        try:
            if (url := self._place(blob)) is None:
                return True
            self._direct.put(url, _pieces(store.path(blob.sha256), 0, blob.bytes), blob.bytes)
            return self._place(blob) is None
        except (Astray, PeerError, ProtocolError, IntegrityError):
            return False

    def _place(self, blob: Blob) -> str | None:
        """Where the core wants the blob put; None once it has it."""
        request = Request(
            method="POST",
            path=f"/v1/blobs/{blob.sha256}",
            query={"bytes": blob.bytes},
            proof_of=blob.sha256,
            patience_s=TAKING_S,
        )
        return read_url(self._connection.ask(request, cap=wire.MAX_DIRECT_BYTES))

    def _upload(self, blob: Blob, offset: int, store: Blobs, ask: Callable[[], None]) -> int:
        sent = failures = 0
        while True:
            before = offset
            try:
                while True:
                    ask()
                    size = self._chunk(blob.bytes - offset)
                    self._put(blob, offset, size, store)
                    sent, offset = sent + size, offset + size
                    if offset >= blob.bytes:
                        return sent
            except (Unreachable, Conflict, HashMismatch):
                failures = failures + 1 if offset == before else 1
                if failures >= TRIES:
                    raise
            standing = self.missing([blob.sha256])
            if blob.sha256 not in standing:
                return sent
            offset = min(standing[blob.sha256], blob.bytes)
            if offset > before:  # only the answers were lost
                failures = 0

    def _chunk(self, rest: int) -> int:
        """Bytes of the next request; a small rest goes along with it."""
        return rest if rest <= self._chunk_bytes * 5 // 4 else self._chunk_bytes

    def _put(self, blob: Blob, offset: int, size: int, store: Blobs) -> None:
        request = Request(
            method="PUT",
            path=f"/v1/blobs/{blob.sha256}",
            query={"bytes": blob.bytes, "offset": offset},
            pieces=lambda: _pieces(store.path(blob.sha256), offset, size),
            size=size,
            proof_of=blob.sha256,
        )
        self._connection.ask(request)

    # -- from the core --------------------------------------------------------------------------

    def download(self, blobs: Sequence[Blob], store: Blobs, *, durable: bool) -> int:
        wanted = list({blob.sha256: blob for blob in blobs}.values())
        return sum(self._each(lambda blob: self._download(blob, store, durable), wanted))

    def download_unsized(self, sha: str, store: Blobs, *, max_bytes: int, durable: bool) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                with self._begin(sha, 0) as response:
                    size = _stated_size(response)
                    if size > max_bytes:
                        raise TooLarge(f"blob {sha[:12]} has {size} bytes; at most {max_bytes} are expected")
                    writer = store.receive(Blob(sha256=sha, bytes=size), durable=durable)
                    with contextlib.closing(writer):
                        if not writer.complete:
                            self._fill(writer, response, skip=writer.offset)
                            writer.finish()
                return
            except (HashMismatch, Unreachable, Conflict):
                if attempt == TRIES:
                    raise

    def _download(self, blob: Blob, store: Blobs, durable: bool) -> int:
        received = failures = 0
        direct = DIRECT_TRIES
        while True:
            writer = store.receive(blob, durable=durable)
            with contextlib.closing(writer):
                if writer.complete:
                    return received
                offset = writer.offset
                try:
                    if offset < blob.bytes:
                        received += self._fetch(blob, writer, direct=direct > 0 and self._direct.usable)
                    writer.finish()
                    return received
                except Astray:
                    direct -= 1
                except (Unreachable, HashMismatch, Conflict) as error:
                    if direct > 0 and isinstance(error, HashMismatch):
                        direct = 0
                        self._direct.failed()
                    headway = isinstance(error, Unreachable) and writer.offset > offset
                    failures = 1 if headway else failures + 1
                    if failures >= TRIES:
                        raise

    def _fetch(self, blob: Blob, writer: Writer, *, direct: bool) -> int:
        with self._begin(blob.sha256, writer.offset, direct=direct) as response:
            skip = 0 if response.status_code == 206 else writer.offset
            due = blob.bytes - writer.offset + skip
            if (size := _stated_size(response)) != due:
                raise TooLarge(
                    f"the core announces {size} bytes for blob {blob.sha256[:12]}, where {due} are due"
                )
            return self._fill(writer, response, skip=skip)

    @contextlib.contextmanager
    def _begin(self, sha: str, offset: int, *, direct: bool = False) -> Iterator[httpx.Response]:
        """A good answer with the blob from `offset` on, or from its beginning where the status is 200; where
        `direct`, of the object store if the core says so, and its failures are `Astray`."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if direct:
            headers[wire.DIRECT_HEADER] = "1"
        request = Request(method="GET", path=f"/v1/blobs/{sha}", headers=headers)
        with self._connection.open(request) as response:
            if response.status_code >= 400:
                body = b"".join(self._connection.read(response, wire.MAX_BODY_BYTES))
                raise read_error(Answer(response.status_code, body))
            if not (direct and wire.DIRECT_HEADER in response.headers):
                _check_part(response, sha, offset)
                yield response
                return
            url = read_url(b"".join(self._connection.read(response, wire.MAX_DIRECT_BYTES)))
        if url is None:
            raise PeerError(f"the core does not say where blob {sha[:12]} is")
        with self._direct.get(url, offset) as response:
            _check_part(response, sha, offset)
            yield response

    def _fill(self, writer: Writer, response: httpx.Response, *, skip: int) -> int:
        received = 0
        for piece in self._connection.read(response):
            received += len(piece)
            if skip >= len(piece):
                skip -= len(piece)
                continue
            writer.write(piece[skip:] if skip else piece)
            skip = 0
        return received

    def _each(self, action: Callable[[T], int], items: Sequence[T]) -> list[int]:
        """`action` on each of `items` in the pool; the first error is raised when all have ended."""
        if len(items) < 2:
            return [action(item) for item in items]
        futures = [self._pool.submit(action, item) for item in items]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]


def _check_part(response: httpx.Response, sha: str, offset: int) -> None:
    part = response.headers.get("Content-Range", "")
    if response.status_code == 206 and not part.startswith(f"bytes {offset}-"):
        raise PeerError(f"another part of blob {sha[:12]} came than was asked for")


def _offsets(answer: bytes) -> tuple[dict[str, int], int | None]:
    value = canonical.decode(answer, what="list of missing blobs", max_bytes=2 * wire.MAX_MISSING_BYTES)
    listed = value.get("missing") if isinstance(value, dict) else None
    if not isinstance(listed, dict) or not all(type(n) is int and n >= 0 for n in listed.values()):
        raise FormatError("the core's list of missing blobs is not one")
    least = value.get("direct")
    return listed, least if type(least) is int else None


def _stated_size(response: httpx.Response) -> int:
    stated = response.headers.get("Content-Length", "")
    if not wire.is_size(stated) or int(stated) > MAX_BLOB_BYTES:
        raise TooLarge(f"the core sends a blob of {stated[:20] or 'unstated'} bytes")
    return int(stated)


def _pieces(path: Path, offset: int, size: int) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError as e:
        raise HashMismatch(f"blob {path.name[:12]} is not here any more") from e
    with file:
        file.seek(offset)
        while size > 0:
            piece = file.read(min(PIECE_BYTES, size))
            if not piece:
                raise HashMismatch(f"blob {path.name[:12]} is shorter than it should be")
            size -= len(piece)
            yield piece
