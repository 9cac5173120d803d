"""Files that are there whole or not at all, and folders that one process holds.

A writer makes a temporary file beside the final one, syncs it and renames it. A process that dies
in between leaves a temporary name behind, which `clean_temporaries` removes at the next start. No
space left is `DiskFull` everywhere, and the temporary file is gone by then.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tapestry.errors import ArtifactError, Busy, Conflict, DiskFull, InputError, TooLarge
from tapestry.host import failpoints
from tapestry.host.processes import pid_alive

T = TypeVar("T")

DISK_FULL_HINT = "free space and run the same command again; nothing was lost"

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<process>[0-9a-f]{16})-\d+\.tmp", re.DOTALL)
_process = secrets.token_hex(8)
_counter = itertools.count()


@contextmanager
def full_disk(path: Path | str) -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" from the body into `DiskFull` naming `path`."""
    try:
        yield
    except OSError as e:
        if e.errno not in _NO_SPACE:
            raise
        raise DiskFull(f"no space left to write {path}", hint=DISK_FULL_HINT) from e


def write_atomic(
    path: Path | str, data: bytes | memoryview, *, mode: int = 0o644, durable: bool = True
) -> None:
    """Put `data` at `path`: a reader sees the old content or the new, never a part.

    Args:
        path: the final name; its folder exists.
        data: the whole content.
        mode: permissions of a new file, less the umask.
        durable: on disk before this returns (file and folder synced). Without it the change is just
            as atomic, but a power cut may undo it.

    Raises:
        DiskFull: no space; the old content is untouched and no temporary file is left.
    """
    path = Path(path)
    with _temporary(path, data, mode=mode, durable=durable) as temporary:
        if durable:
            failpoints.reach("file.before-rename")
        temporary.replace(path)
        if durable:
            failpoints.reach("file.after-rename")
            fsync_dir(path.parent)


def write_new(path: Path | str, data: bytes | bytearray) -> None:
    """Write a file in a folder that no reader knows yet; on disk when this returns, but for its name."""
    with full_disk(path), Path(path).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path | str, offset: int, data: bytes) -> None:
    """Put `data` behind the first `offset` bytes of a file, which is made where there is none; what stood
    there goes. On disk when this returns.

    Raises:
        OSError: the file is shorter than that.
    """
    with full_disk(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            if os.fstat(fd).st_size < offset:
                raise OSError(errno.EIO, f"has less than {offset} bytes", str(path))
            file.truncate(offset)
            file.seek(offset)
            file.write(data)
            file.flush()
            _sync(fd)
        if not offset:  # its name may be new
            fsync_dir(Path(path).parent)


def overwrite(path: Path | str, data: bytes) -> None:
    """Put `data` in the place of a file's content where that has the same size; else nothing happens.

    For a full disk: most file systems need no new space for it. A reader may see old and new mixed.
    """
    with full_disk(path), Path(path).open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size == len(data):
            file.write(data)


def private_write(path: Path | str, data: bytes, *, replace: bool = False) -> None:
    """Put a secret at `path`, durably, readable by its owner alone (0600) from its first byte on. What root
    writes in another's folder is that one's.

    Args:
        path: the final name; its folder exists.
        data: the whole content.
        replace: allow an existing file to be replaced; a key normally is not.

    Raises:
        InputError: the file exists and `replace` is not set.
        DiskFull: no space; nothing changed.
    """
    path = Path(path)
    with _temporary(path, data, mode=0o600, durable=True) as temporary:
        if os.geteuid() == 0 and (folder := path.parent.stat()).st_uid != 0:
            os.chown(temporary, folder.st_uid, folder.st_gid, follow_symlinks=False)
        if replace:
            temporary.replace(path)
        else:
            _rename_new(temporary, path)
        fsync_dir(path.parent)


def read_limited(path: Path | str, max_bytes: int, *, follow_symlinks: bool = True) -> bytes:
    """The content of a regular file, refused before it is read when it has more than `max_bytes`.

    Args:
        path: the file.
        max_bytes: most bytes that are acceptable.
        follow_symlinks: set False where a less trusted process writes the folder.

    Raises:
        TooLarge: the file is larger.
        ArtifactError: `path` is a folder, pipe, device or (unless followed) a symbolic link.
        FileNotFoundError: there is no such file.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_symlinks else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            raise ArtifactError(f"{path} is not a regular file") from e
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArtifactError(f"{path} is not a regular file")
        data = bytearray()
        while len(data) <= max_bytes and (chunk := os.read(fd, min(max_bytes + 1 - len(data), 1 << 20))):
            data += chunk
    finally:
        os.close(fd)
    if len(data) > max_bytes:
        raise TooLarge(f"{path} is larger than the {max_bytes} bytes allowed for it")
    return bytes(data)


def fsync_dir(path: Path | str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with full_disk(path):
            _sync(fd)
    finally:
        os.close(fd)


def fsync_tree(path: Path | str) -> None:
    """Make a folder durable with every file and folder below it; symbolic links are not followed."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            file = Path(folder) / name
            if not stat.S_ISREG(file.lstat().st_mode):
                continue
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                with full_disk(file):
                    _sync(fd)
            finally:
                os.close(fd)
        fsync_dir(folder)


def publish_dir(temporary: Path | str, final: Path | str) -> None:
    """Give a finished folder its final name: everything in it is on disk before that name exists.

    Raises:
        Conflict: `final` exists and is not empty; `temporary` is left as it is.
        DiskFull: no space; `temporary` is removed, since the system may have dropped some of it.
    """
    temporary, final = Path(temporary), Path(final)
    try:
        with full_disk(final):
            fsync_tree(temporary)
            temporary.rename(final)
            fsync_dir(final.parent)
    except DiskFull:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except OSError as e:
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Conflict(f"{final} exists already") from e
        raise


def clean_temporaries(path: Path | str) -> int:
    """Remove what dead writers left directly in a folder; returns how many. Files that a live process
    is writing stay, and so does everything that is not named like one of our temporary files."""
    removed = 0
    for entry in os.scandir(path):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or not entry.is_file(follow_symlinks=False):
            continue
        pid = int(match["pid"])
        if match["process"] == _process if pid == os.getpid() else pid_alive(pid):
            continue
        with suppress(FileNotFoundError):
            Path(entry.path).unlink()
            removed += 1
    return removed


class Lock:
    """Holds a folder for one process: `with Lock(home): ...`. The kernel lets go when the process ends.

    Args:
        path: a folder (the lock is its `.lock` file) or the lock file itself.

    Raises (on entering):
        Busy: another process, or another `Lock` in this one, holds it; names the folder and the pid.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        self.file = path / ".lock" if path.is_dir() else path
        self._fd: int | None = None

    def acquire(self) -> None:
        if self._fd is not None:
            raise RuntimeError(f"{self.file} is held by this very Lock")
        with full_disk(self.file):
            fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            except BlockingIOError as e:
                pid = os.pread(fd, 32, 0).strip()
                os.close(fd)
                holder = f"process {int(pid)}" if pid.isdigit() else "another process"
                raise Busy(
                    f"{self.file.parent} is in use by {holder}", hint="stop it, or use another directory"
                ) from e
            except BaseException:
                os.close(fd)
                raise
        self._fd = fd

    def wait(self, patience_s: float = math.inf) -> None:
        """Acquire it; while another holds it, try again for so long. Raises `Busy` then."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return self.acquire()
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def release(self) -> None:
        """Let go; harmless where nothing is held. The lock file stays, since removing it would race."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.ftruncate(fd, 0)
            finally:
                os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def wait_for(predicate: Callable[[], T], poll_s: float = 0.01, timeout_s: float | None = None) -> T:
    """Ask `predicate` every `poll_s` seconds until its answer is true; returns its last answer, which is
    false only after `timeout_s`. It is asked at least once."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        pause = poll_s
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                return answer
            pause = min(poll_s, left)
        time.sleep(pause)


@contextmanager
def _temporary(path: Path, data: bytes | memoryview, *, mode: int, durable: bool) -> Iterator[Path]:
    """A new file beside `path` with all of `data`, which is gone afterwards unless it was renamed."""
    name = f".{path.name[:32]}.{os.getpid()}-{_process}-{next(_counter)}.tmp"
    temporary = path.with_name(name)
    with full_disk(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            try:
                if mode & 0o077 == 0:
                    os.fchmod(fd, mode)
                rest = memoryview(data).cast("B")
                while rest:
                    rest = rest[os.write(fd, rest) :]
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            yield temporary
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename that never replaces."""
    try:
        os.link(temporary, path)
    except FileExistsError as e:
        raise InputError(
            f"{path} exists already", hint="move it away first; it may be the only copy of a key"
        ) from e
    temporary.unlink()


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has nothing to sync
            raise
