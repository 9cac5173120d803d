"""Blobs in an object store, with a folder as stage and cache before it.

The folder is a `BlobStore` of its own, so processes without a network (the replay worker) read and
write it as they always do. Durable means: the object store has it. What is asked for and is not in
the folder is fetched, hashed, and gets its name only with the right hash; nothing is believed because
the object store said it.

A file of the folder that nobody may write (mode 0444) is a copy of what the object store had; any other
lies only here so far. The folder is kept below `cache_bytes`: of the copies, what was not used for
longest goes first, unless somebody in this process uses it. Another process that has the store open (a
command of the operator) holds a shared lock on the folder, and while one does nothing goes. What lies
only here stays, and so do the blobs in use, even above the bound.

What the object store has is asked each time and never remembered: another core may share it, and erase.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from tapestry.errors import HashMismatch, NotFound, ResourceError, TooLarge
from tapestry.protocol.artifact import Blob
from tapestry.protocol.canonical import is_sha256
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.storage.blobs import ABANDONED_S, INCOMING, BlobStore, blob_name
from tapestry.storage.bucket import Bucket
from tapestry.storage.medium import guard

R = TypeVar("R")
PARALLEL: Final = 4
"""Blobs looked up, sent or fetched at once by one call; of large ones the bucket sends fewer."""
DOWNLOADS: Final = 2
"""A blob that arrives with other bytes is fetched once more before it is called wrong."""
LOCK: Final = "lock"
WRITABLE: Final = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


class TieredStore(BlobStore):
    """A `BlobStore` whose blobs live in `bucket`; `root` is the folder before it."""

    def __init__(self, bucket: Bucket, root: Path, *, cache_bytes: int) -> None:
        with guard(f"cache folder {root}"):
            (root / INCOMING).mkdir(parents=True, exist_ok=True)
            lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            weakref.finalize(self, os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_SH)
        super().__init__(root)
        self.bucket = bucket
        self.cache_bytes = cache_bytes
        self._lock_fd = lock
        self._wrong: set[str] = set()
        """Objects that came with other bytes; sent again by the next who has the right ones."""
        self._pins: Counter[str] = Counter()
        self._fetching = [threading.Lock() for _ in range(256)]
        self._evicting = threading.Lock()
        self._unseen_bytes = 0
        self._free_bytes = 0
        self.clean(older_than_s=ABANDONED_S, suffix=".tmp")

    def check(self) -> None:
        self.bucket.check()

    # -- looking up ---------------------------------------------------------------------------

    def has(self, sha: str) -> bool:
        """Whether nobody need send it: it lies here, or in the object store and was not found wrong."""
        try:
            self._size_here(sha)
        except NotFound:
            return self.sound_there(sha) is not None
        return True

    def lacking(self, shas: Iterable[str]) -> list[str]:
        asked = list(shas)
        return [sha for sha, here in zip(asked, self._each(self.has, asked), strict=True) if not here]

    def size(self, sha: str) -> int:
        try:
            return self._size_here(sha)
        except NotFound:
            if is_sha256(sha) and (size := self._size_there(sha)) is not None:
                return size
            raise

    def iterate(self) -> Iterator[Blob]:
        """Every blob of the folder, then what else the object store lists, which may lag behind."""
        seen = set()
        for blob in super().iterate():
            seen.add(blob.sha256)
            yield blob
        for name, size in self.bucket.names():
            folder, _, sha = name.rpartition("/")
            if is_sha256(sha) and folder == sha[:2] and sha not in seen:
                yield Blob.model_construct(sha256=sha, bytes=size)

    # -- reading ------------------------------------------------------------------------------

    def read(self, sha: str, max_bytes: int = MAX_BLOB_BYTES) -> bytes:
        return self._healing(sha, lambda: super(TieredStore, self).read(sha, max_bytes), max_bytes)

    def read_into(self, sha: str, buffer: bytearray | memoryview) -> int:
        room = memoryview(buffer).nbytes
        return self._healing(sha, lambda: super(TieredStore, self).read_into(sha, buffer), room)

    def open_for_reading(self, sha: str) -> int:
        return self._healing(sha, lambda: super(TieredStore, self).open_for_reading(sha))

    def fetch(self, sha: str) -> Path:
        """Where the blob lies in the folder: for certain while `holding` it, or while another process
        has the store open; else until it is evicted."""
        return self._healing(sha, lambda: super(TieredStore, self).fetch(sha))

    def verify(self, blob: Blob) -> bool:
        with self._pinned([blob.sha256]), contextlib.suppress(NotFound, HashMismatch, TooLarge):
            for _ in range(2):  # what is damaged here may be whole there
                self._bring(blob.sha256)
                if self._holds(blob):
                    return True
                if self.path(blob.sha256).exists():
                    break  # whole, of another size
        return False

    @contextlib.contextmanager
    def holding(self, shas: Iterable[str]) -> Iterator[None]:
        """These blobs lie in the folder, for another process to read, as long as the block lasts.

        Raises:
            NotFound, HashMismatch: one is not to be had, or not with the right bytes.
        """
        wanted = list(dict.fromkeys(shas))
        with self._pinned(wanted):
            self._each(self._bring, wanted)
            yield

    def _healing(self, sha: str, look: Callable[[], R], max_bytes: int = MAX_BLOB_BYTES) -> R:
        """`look` at the folder's copy, brought here first; once more if that one turns out damaged."""
        with self._pinned([sha]):
            self._bring(sha, max_bytes)
            try:
                return look()
            except HashMismatch as damaged:
                try:
                    self._bring(sha, max_bytes)
                except NotFound:
                    raise damaged from None
            return look()

    @contextlib.contextmanager
    def _pinned(self, shas: list[str]) -> Iterator[None]:
        with self._lock:
            self._pins.update(shas)
        try:
            yield
        finally:
            with self._lock:
                self._pins.subtract(shas)
                for sha in shas:
                    if self._pins[sha] <= 0:
                        del self._pins[sha]

    def _bring(self, sha: str, max_bytes: int = MAX_BLOB_BYTES) -> None:
        if self._touch(sha):
            return
        with self._fetching[int(sha[:2], 16)]:
            if not self._touch(sha):
                self._download(sha, max_bytes)

    def _touch(self, sha: str) -> bool:
        """Whether the blob lies in the folder, marked as used now."""
        path = self.path(sha)
        with guard(f"blob {sha}"):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
            except PermissionError:  # another user's file, linked here
                pass
        return True

    def _download(self, sha: str, max_bytes: int) -> None:
        for _ in range(DOWNLOADS):
            with self._temporary() as temporary:
                try:
                    actual = self.bucket.download(blob_name(sha), temporary, max_bytes)
                except NotFound:
                    raise NotFound(f"blob {sha} is neither here nor in {self.bucket.url}") from None
                except HashMismatch:
                    actual = "not asked, as it is stored as if compressed"
                if actual == sha:
                    self._publish_copy(temporary, sha)
                    return
        with self._lock:
            self._wrong.add(sha)
        raise HashMismatch(
            f"blob {sha} came from {self.bucket.url} with other bytes (SHA-256 {actual}) and was dropped",
            hint="it is replaced by whoever sends or computes it again; if this repeats, check the store",
        )

    def _publish_copy(self, temporary: Path, sha: str) -> None:
        """A file with the right bytes, of which the object store has the same."""
        _mark_copy(temporary)
        super().publish(temporary, sha, durable=False)
        self._right(sha)
        self._grew(self._size_here(sha))

    # -- writing ------------------------------------------------------------------------------

    def accept(self, name: str, blob: Blob) -> None:
        """Give object `name` the name of `blob`, once it was read and found to be that.

        Nobody else may be able to write `name`, or other bytes than were read could end under an address.

        Raises:
            NotFound: there is no such object.
            TooLarge, HashMismatch: it is another than `blob`; no blob has changed.
        """
        with self._pinned([blob.sha256]), self._temporary() as temporary:
            if (actual := self.bucket.download(name, temporary, blob.bytes)) != blob.sha256:
                raise HashMismatch(
                    f"blob {blob.sha256} was put into {self.bucket.url} with other bytes (SHA-256 {actual})",
                    hint="send it again",
                )
            self.bucket.copy(name, blob_name(blob.sha256))
            self._publish_copy(temporary, blob.sha256)

    def sync(self, shas: Iterable[str]) -> None:
        self._each(self._upload, list(dict.fromkeys(shas)))

    def publish(self, temporary: Path, sha: str, *, durable: bool) -> None:
        super().publish(temporary, sha, durable=False)
        if durable:
            self._upload(sha)

    def delete(self, sha: str) -> None:
        """Remove a blob here and there; where the object store fails, it stays in both."""
        if is_sha256(sha):
            self.bucket.delete(blob_name(sha))
            self._right(sha)
            super().delete(sha)

    def delete_all(self, shas: Iterable[str]) -> None:
        self._each(self.delete, list(shas))

    def _upload(self, sha: str) -> None:
        """The object store has the blob when this returns."""
        with self._pinned([sha]):
            try:
                size = self._size_here(sha)
            except NotFound:
                if not self.has(sha):
                    raise
                return
            if sha not in self._wrong and self._size_there(sha) == size:
                _mark_copy(self.path(sha))
                return
            if not self._holds(Blob.model_construct(sha256=sha, bytes=size)):
                raise HashMismatch(
                    f"blob {sha} was damaged before it reached {self.bucket.url}, and was removed",
                    hint="it is fetched or computed again; if this repeats, check the disk",
                )
            self.bucket.upload(self.path(sha), blob_name(sha))
            _mark_copy(self.path(sha))
            self._right(sha)
        self._grew(size)

    def clean(self, *, older_than_s: float, suffix: str = ".part") -> int:
        """As of the folder; half-received are also objects that were put and never taken in."""
        removed = super().clean(older_than_s=older_than_s, suffix=suffix)
        if suffix == ".part":
            removed += self.bucket.clean(INCOMING, older_than_s=older_than_s)
        return removed

    def sound_there(self, sha: str) -> int | None:
        """Bytes of the blob in the object store; None where that lacks it, or it was found wrong."""
        return None if sha in self._wrong or not is_sha256(sha) else self._size_there(sha)

    def _size_there(self, sha: str) -> int | None:
        return self.bucket.size(blob_name(sha))

    def _right(self, sha: str) -> None:
        with self._lock:
            self._wrong.discard(sha)

    def _each(self, work: Callable[[str], R], shas: list[str]) -> list[R]:
        if len(shas) < 2:
            return [work(sha) for sha in shas]
        with ThreadPoolExecutor(min(PARALLEL, len(shas)), "blob") as pool:
            return list(pool.map(work, shas))

    # -- keeping the folder small ---------------------------------------------------------------

    def _grew(self, size: int) -> None:
        """Look at the folder when as much came as there was room at the last look."""
        with self._lock:
            self._unseen_bytes += size
            due = self._unseen_bytes > self._free_bytes
        if due and self._evicting.acquire(blocking=False):
            try:
                with contextlib.suppress(ResourceError):  # the blob is here; room is made another time
                    self._evict()
            finally:
                self._evicting.release()

    def _evict(self) -> None:
        with self._lock:
            self._unseen_bytes = 0
        used, copies = self._scan()
        if used > self.cache_bytes:
            with self._alone() as alone:
                used -= self._free(copies, used - self.cache_bytes * 7 // 8) if alone else 0
        with self._lock:
            self._free_bytes = max(self.cache_bytes - used, self.cache_bytes // 16)

    def _scan(self) -> tuple[int, list[tuple[int, int, str]]]:
        """Bytes in the folder; and of each copy when it was last used (ns), bytes and name."""
        used, copies = 0, []
        for blob in super().iterate():
            with contextlib.suppress(FileNotFoundError):
                found = self.path(blob.sha256).stat()
                used += found.st_size
                if not found.st_mode & WRITABLE:
                    copies.append((found.st_mtime_ns, found.st_size, blob.sha256))
        return used, copies

    def _free(self, copies: list[tuple[int, int, str]], wanted: int) -> int:
        """Remove copies, what was not used for longest first, until `wanted` bytes are free; how many are."""
        freed = 0
        for _, size, sha in sorted(copies):
            if freed >= wanted:
                break
            with self._lock:
                if sha in self._pins:
                    continue
                self.path(sha).unlink(missing_ok=True)
                self._verified.pop(bytes.fromhex(sha), None)
            freed += size
        return freed

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process has the store open; none can begin to while the block lasts."""
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH)


def _mark_copy(path: Path) -> None:
    """Say of a file that the object store has it; one linked from another user's stays as it is."""
    with guard(f"blob {path.name}"), contextlib.suppress(PermissionError, FileNotFoundError):
        path.chmod(0o444)
