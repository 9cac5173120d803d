"""Takes a blob in pieces, into a partial file that outlives a broken connection or a killed process."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Final, Self

from tapestry.errors import Busy, Conflict, HashMismatch, TooLarge
from tapestry.protocol.artifact import Blob
from tapestry.storage.medium import Bytes, guard, write_all

if TYPE_CHECKING:
    from tapestry.storage.blobs import BlobStore

_READ_BYTES: Final = 1 << 20


class Receiver:
    """Takes one blob in pieces. Made by `BlobStore.receive`.

    `offset` says from which byte on to send. Leaving the `with` block before `finish` keeps what came.
    """

    def __init__(self, store: BlobStore, expected: Blob, *, durable: bool) -> None:
        self.expected = expected
        self.offset = 0
        self.complete = False
        self._store = store
        self._durable = durable
        self._lock = threading.Lock()
        self._part = store.part_path(expected.sha256)
        self._fd = -1
        self._hash = hashlib.sha256()
        if store.verify(expected):
            self.offset, self.complete = expected.bytes, True
            if durable:
                store.sync([expected.sha256])
            return
        with guard(f"blob {expected.sha256}"):
            while not self._open_part():
                pass
            try:
                self._resume()
            except BaseException:
                self._shut()
                raise

    def _open_part(self) -> bool:
        """Open and lock the partial file; False if another receiver published it meanwhile."""
        fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(fd), self._part.stat()):
                raise FileNotFoundError
        except BlockingIOError as e:
            os.close(fd)
            raise Busy(f"blob {self.expected.sha256} is being received already") from e
        except FileNotFoundError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def _resume(self) -> None:
        if os.fstat(self._fd).st_size > self.expected.bytes:
            os.ftruncate(self._fd, 0)
        while piece := os.read(self._fd, _READ_BYTES):
            self._hash.update(piece)
            self.offset += len(piece)

    def write(self, data: Bytes) -> None:
        """The next bytes.

        Raises:
            TooLarge: more than expected came; what was received is dropped.
            Conflict: a newer receiver took over.
            DiskFull: what came before is kept.
        """
        view = memoryview(data).cast("B")
        with self._lock:
            self._check_open()
            if self.offset + len(view) > self.expected.bytes:
                self._discard()
                raise TooLarge(f"blob {self.expected.sha256} is larger than its {self.expected.bytes} bytes")
            with guard(f"blob {self.expected.sha256}"):
                try:
                    write_all(self._fd, view)
                except OSError:
                    os.ftruncate(self._fd, self.offset)
                    os.lseek(self._fd, self.offset, os.SEEK_SET)
                    raise
            self._hash.update(view)
            self.offset += len(view)

    def finish(self) -> None:
        """Publish the blob.

        Raises:
            HashMismatch: other bytes came than the name says; they are dropped.
            Conflict: bytes are missing, or a newer receiver took over.
        """
        with self._lock:
            if self.complete:
                return
            self._check_open()
            if self.offset != self.expected.bytes:
                raise Conflict(
                    f"blob {self.expected.sha256} has {self.offset} of {self.expected.bytes} bytes",
                    hint="send the rest from that offset on",
                )
            if (actual := self._hash.hexdigest()) != self.expected.sha256:
                self._discard()
                raise HashMismatch(
                    f"blob {self.expected.sha256} arrived with SHA-256 {actual} and was dropped",
                    hint="send it again from the beginning",
                )
            if self._durable:
                with guard(f"blob {self.expected.sha256}"):
                    os.fsync(self._fd)
            self._store.publish(self._part, self.expected.sha256, durable=self._durable)
            self.complete = True
            self._shut()

    def close(self) -> None:
        """Stop; what came is kept for the next receiver."""
        with self._lock:
            self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise Conflict(
                f"blob {self.expected.sha256} is being received over a newer connection",
                hint="ask where it stands and go on from there",
            )

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._shut()

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._store.forget(self)
