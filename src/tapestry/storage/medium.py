"""The local file system, with its errors made ours."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import obstore

from tapestry.errors import DiskFull, NotFound, StoreError

Bytes = bytes | bytearray | memoryview

_WRITE_BYTES: Final = 1 << 18
"""Bytes a write call; measured 2–8 times faster than 1 MiB and more, for which Linux looks for large
pages."""


def write_all(fd: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        done += os.write(fd, view[done : done + _WRITE_BYTES])


def read_mapped(path: Path) -> mmap.mmap:
    """A file's bytes, in pages of their own that the system has back as soon as nobody refers to them.

    What `malloc` gives is kept after use, for each thread apart, which at some MiB a thread is most of a
    core's memory. The file itself is not mapped: one that is cut short meanwhile would kill the process.

    Raises:
        OSError, ValueError: it cannot be read, or is empty.
    """
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with memoryview(pages) as view:
            done = 0
            while done < size and (got := file.readinto(view[done:size])):
                done += got
    if done < size:
        raise OSError(errno.EIO, f"it ends after {done} of {size} bytes")
    return pages


def fsync_path(path: Path) -> None:
    with guard(f"blob {path.name}"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def guard(what: str) -> Iterator[None]:
    """Foreign errors become ours here; nothing else leaves this room."""
    try:
        yield
    except FileNotFoundError as e:
        raise NotFound(f"{what} is not here") from e
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no space left while writing {what}", hint="free some space; nothing was lost"
            ) from e
        raise StoreError(f"{what}: {e.strerror or e}") from e
    except obstore.exceptions.BaseError as e:
        raise StoreError(f"{what}: {str(e).splitlines()[0]}") from e
