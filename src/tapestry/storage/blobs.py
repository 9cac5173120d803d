"""Content-addressed blobs in a folder: `<aa>/<sha256>`, half-received ones in `incoming/`.

A blob appears under its name only whole and with the right hash: bytes go to a temporary name, are
fsynced (where `durable`), and renamed. Whatever is read is hashed again, so a torn write or a flipped
bit is found, the bad blob removed and `HashMismatch` raised.

Looking up, listing, reading and deleting go through obstore. It neither fsyncs nor resumes, so
writing is done here. Where the blobs live in an object store, such a folder is the stage and cache
before it: see `tiered`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore

from tapestry.errors import HashMismatch, NotFound, SettingsError, TooLarge
from tapestry.protocol.artifact import Blob
from tapestry.protocol.canonical import is_sha256
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.storage.medium import Bytes, fsync_path, guard, write_all
from tapestry.storage.receiver import Receiver

INCOMING = "incoming"
ABANDONED_S = 3600.0
"""A temporary file this old belongs to nobody any more."""
PARALLEL_SYNCS = 8
MAX_VERIFIED = 1 << 16


class BlobStore:
    """Blobs by their SHA-256. Safe to use from several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._objects = LocalStore(root)
        self._lock = threading.Lock()
        self._receivers: dict[str, Receiver] = {}
        self._verified: dict[bytes, None] = {}

    @classmethod
    def open(cls, where: str | Path) -> Self:
        """The store at a local folder (path or `file://` URL), made where it is missing."""
        root = _local_folder(where)
        with guard(f"blob folder {root}"):
            (root / INCOMING).mkdir(parents=True, exist_ok=True)
        store = cls(root)
        store.clean(older_than_s=ABANDONED_S, suffix=".tmp")
        return store

    def check(self) -> None:
        """Raise `StoreError` or `DiskFull` where it cannot be used; for a folder `open` has seen to that."""

    # -- looking up ---------------------------------------------------------------------------

    def has(self, sha: str) -> bool:
        try:
            self.size(sha)
        except NotFound:
            return False
        return True

    def size(self, sha: str) -> int:
        """Bytes of a blob. Raises `NotFound`."""
        return self._size_here(sha)

    def _size_here(self, sha: str) -> int:
        with guard(f"blob {sha}"):
            return int(self._objects.head(blob_name(sha))["size"])

    def path(self, sha: str) -> Path:
        """Where the blob lies, or would lie."""
        return self.root / blob_name(sha)

    def fetch(self, sha: str) -> Path:
        """Where the blob lies, in the folder for certain. Raises `NotFound`."""
        path = self.path(sha)
        with guard(f"blob {sha}"):
            path.stat()
        return path

    def lacking(self, shas: Iterable[str]) -> list[str]:
        """Those that are not here."""
        return [sha for sha in shas if not self.has(sha)]

    def iterate(self) -> Iterator[Blob]:
        """Every whole blob, in no order."""
        with guard("blob list"):
            for chunk in self._objects.list():
                for entry in chunk:
                    folder, _, sha = str(entry["path"]).rpartition("/")
                    if is_sha256(sha) and folder == sha[:2]:
                        yield Blob.model_construct(sha256=sha, bytes=int(entry["size"]))

    # -- reading ------------------------------------------------------------------------------

    def read(self, sha: str, max_bytes: int = MAX_BLOB_BYTES) -> bytes:
        """The blob, verified.

        Raises:
            NotFound: it is not here.
            TooLarge: it has more than `max_bytes`; nothing was read.
            HashMismatch: its bytes are not what its name says; it has been removed.
        """
        size = self.size(sha)
        if size > max_bytes:
            raise TooLarge(f"blob {sha} has {size} bytes; at most {max_bytes} are expected")
        with guard(f"blob {sha}"):
            data = self._objects.get(blob_name(sha)).bytes().to_bytes()
        self._check(sha, hashlib.sha256(data).hexdigest())
        return data

    def read_into(self, sha: str, buffer: bytearray | memoryview) -> int:
        """Fill the beginning of `buffer` with the blob, verified; its size. Errors as of `read`."""
        view = memoryview(buffer).cast("B")
        with guard(f"blob {sha}"), open(self.path(sha), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > len(view):
                raise TooLarge(f"blob {sha} has {size} bytes; at most {len(view)} are expected")
            done = 0
            while done < size and (got := file.readinto(view[done:size])):
                done += got
        self._check(sha, hashlib.sha256(view[:done]).hexdigest())
        return done

    def open_for_reading(self, sha: str) -> int:
        """A file descriptor on the blob, for whoever sends it on unread. Raises `NotFound`."""
        with guard(f"blob {sha}"):
            return os.open(self.path(sha), os.O_RDONLY | os.O_CLOEXEC)

    def verify(self, blob: Blob) -> bool:
        """Whether the blob is here with this size and the right hash.

        One with a wrong hash is removed; one that is whole but has another size than `blob` claims is
        not. What this process received, wrote or verified before is not hashed again.
        """
        return self._holds(blob)

    def _holds(self, blob: Blob) -> bool:
        """`verify`, of what lies in the folder."""
        try:
            size = self._size_here(blob.sha256)
            if bytes.fromhex(blob.sha256) not in self._verified or size != blob.bytes:
                self._check(blob.sha256, self._hash(self.path(blob.sha256)))
        except (NotFound, HashMismatch):
            return False
        return size == blob.bytes

    def _hash(self, path: Path) -> str:
        with guard(f"file {path.name}"), open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _check(self, sha: str, actual: str) -> None:
        if actual != sha:
            self._drop(sha)
            raise HashMismatch(
                f"blob {sha} holds other bytes (SHA-256 {actual}) and was removed",
                hint="it is fetched or computed again; if this repeats, check the disk",
            )
        self._remember(sha)

    def _remember(self, sha: str) -> None:
        with self._lock:
            if len(self._verified) >= MAX_VERIFIED:
                self._verified.clear()
            self._verified[bytes.fromhex(sha)] = None

    # -- writing ------------------------------------------------------------------------------

    def put(self, data: Bytes, durable: bool = True) -> str:
        """Store `data` and return its hash; a blob that is there already is not written again."""
        view = memoryview(data).cast("B")
        if len(view) > MAX_BLOB_BYTES:
            raise TooLarge(f"a blob has at most {MAX_BLOB_BYTES} bytes, not {len(view)}")
        sha = hashlib.sha256(view).hexdigest()
        if self._holds(Blob(sha256=sha, bytes=len(view))):
            if durable:
                self.sync([sha])
            return sha
        with self._temporary() as temporary:
            with guard(f"blob {sha}"), open(temporary, "xb", buffering=0) as file:
                write_all(file.fileno(), view)
                if durable:
                    os.fsync(file.fileno())
            self.publish(temporary, sha, durable=durable)
        return sha

    def adopt(self, path: Path, sha: str, durable: bool = True) -> None:
        """Take a local file as blob `sha`, by hard link where possible. It must not change afterwards.

        Raises `HashMismatch` if it has another hash; the file is left alone.
        """
        with guard(f"file {path.name}"):
            size = path.stat().st_size
        if size > MAX_BLOB_BYTES:
            raise TooLarge(f"a blob has at most {MAX_BLOB_BYTES} bytes, not {size}")
        if not self._holds(Blob(sha256=sha, bytes=size)):
            with self._temporary() as temporary:
                with guard(f"file {path.name}"):
                    try:
                        temporary.hardlink_to(path)
                    except OSError as e:
                        if e.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                            raise
                        shutil.copyfile(path, temporary)
                if (actual := self._hash(temporary)) != sha:
                    raise HashMismatch(f"file {path.name} has SHA-256 {actual}, not {sha}")
                self.publish(temporary, sha, durable=False)
        if durable:
            self.sync([sha])

    def receive(self, expected: Blob, durable: bool = True) -> Receiver:
        """A writer for a blob that arrives in pieces; it goes on where an earlier one stopped.

        The newest receiver of a blob wins: an older one in this process is closed and its next
        `write` raises `Conflict`, so a connection that hangs cannot keep its successor out.

        Raises:
            Busy: another process, or a thread that came first by a moment, is receiving it.
        """
        with self._lock:
            older = self._receivers.pop(expected.sha256, None)
        if older is not None:
            older.close()
        receiver = Receiver(self, expected, durable=durable)
        with self._lock:
            self._receivers[expected.sha256] = receiver
        return receiver

    def forget(self, receiver: Receiver) -> None:
        with self._lock:
            if self._receivers.get(receiver.expected.sha256) is receiver:
                del self._receivers[receiver.expected.sha256]

    def partial(self, sha: str) -> int:
        """Bytes of a half-received blob; 0 where there are none."""
        try:
            with guard(f"blob {sha}"):
                return self.part_path(sha).stat().st_size
        except NotFound:
            return 0

    def sync(self, shas: Iterable[str]) -> None:
        """Make several blobs durable, in parallel. Raises `NotFound` if one is not here."""
        wanted = list(dict.fromkeys(shas))
        if not wanted:
            return
        folders = dict.fromkeys(self.path(sha).parent for sha in wanted)
        with ThreadPoolExecutor(min(PARALLEL_SYNCS, len(wanted)), "blob-sync") as pool:
            for sync in (self.path(sha) for sha in wanted), folders, (self.root,):
                list(pool.map(fsync_path, sync))

    def delete(self, sha: str) -> None:
        """Remove a blob; nothing happens if it is not here."""
        self._drop(sha)

    def delete_all(self, shas: Iterable[str]) -> None:
        for sha in shas:
            self.delete(sha)

    def _drop(self, sha: str) -> None:
        """Remove the folder's copy."""
        with self._lock:
            self._verified.pop(bytes.fromhex(sha), None)
        with contextlib.suppress(NotFound), guard(f"blob {sha}"):
            self._objects.delete(blob_name(sha))

    def clean(self, *, older_than_s: float, suffix: str = ".part") -> int:
        """Remove half-received (`.part`) or temporary (`.tmp`) files that nobody wrote to for so long.

        Returns:
            how many were removed.
        """
        removed = 0
        oldest = time.time() - older_than_s
        with guard("incoming blobs"):
            for entry in os.scandir(self.root / INCOMING):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith(suffix) and entry.stat().st_mtime < oldest:
                        Path(entry.path).unlink()
                        removed += 1
        return removed

    def part_path(self, sha: str) -> Path:
        """Where a half-received blob lies. For `Receiver`, as are `publish` and `forget`."""
        blob_name(sha)
        return self.root / INCOMING / f"{sha}.part"

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self.root / INCOMING / f"{secrets.token_hex(16)}.tmp"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, temporary: Path, sha: str, *, durable: bool) -> None:
        final = self.path(sha)
        with guard(f"blob {sha}"):
            new_folder = not final.parent.is_dir()
            if new_folder:
                final.parent.mkdir(exist_ok=True)
            temporary.replace(final)
        if durable:
            fsync_path(final.parent)
            if new_folder:
                fsync_path(self.root)
        self._remember(sha)


def _local_folder(where: str | Path) -> Path:
    if isinstance(where, str) and "://" in where:
        url = urlsplit(where)
        if url.scheme != "file" or url.netloc not in ("", "localhost"):
            raise SettingsError(
                f"blob store {url.scheme}:// is not supported by this release",
                hint="give a local folder",
            )
        return Path(unquote(url.path))
    return Path(where)


def blob_name(sha: str) -> str:
    """`<aa>/<sha256>`. Raises `NotFound` for what is no address."""
    if not is_sha256(sha):
        raise NotFound(f"{sha[:80]!r} is not the address of a blob")
    return f"{sha[:2]}/{sha}"
