"""Logs of JSON lines that survive a kill: appended with one write, a torn last line is cut off."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tapestry.errors import FormatError
from tapestry.host import files


def append(path: Path, lines: Sequence[dict[str, Any]], *, durable: bool) -> None:
    """Append `lines` behind the last whole line; one process waits for another.

    Raises:
        DiskFull: no space; what was there before is whole, and the next call cuts off the rest.
    """
    if not lines:
        return
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    with files.full_disk(path):
        new = not path.exists()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            end = _end_of_last_line(fd)
            os.ftruncate(fd, end)
            done = 0
            while done < len(data):
                done += os.pwrite(fd, data[done:], end + done)
            if durable:
                os.fdatasync(fd)
        finally:
            os.close(fd)
    if new and durable:
        files.fsync_dir(path.parent)


def _end_of_last_line(fd: int) -> int:
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - 4096)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines, oldest first; a torn last one is left out. Raises `FormatError` for a damaged one."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError as e:
                raise FormatError(f"line {number} of {path} is damaged") from e
            if isinstance(value, dict):
                yield value
