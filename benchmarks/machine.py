"""What benchmarks ask of the machine: a folder that is always cleared away, room on the disk, cold files,
memory and processor time of processes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tapestry.errors import ProcessDied
from tapestry.host import processes

SAMPLE_S = 0.01
"""Between two looks at a process's memory."""
WRITE_BYTES = 256 << 10
"""Bytes a write call; larger ones are slower on Linux (see `storage.medium`)."""
RESERVE_BYTES = 1 << 30
_OURS = re.compile(r"\.bench-(\d+)-")


@contextmanager
def scratch(*, needs_bytes: int = 0) -> Iterator[Path]:
    """A folder below the working directory, removed whatever happens; those of killed benchmarks as well.

    Args:
        needs_bytes: ends the program, with what is free, where the disk has less.
    """
    for old in Path.cwd().glob(".bench-*"):
        named = _OURS.match(old.name)
        if named and not processes.pid_alive(int(named[1])):
            shutil.rmtree(old, ignore_errors=True)
    free = shutil.disk_usage(Path.cwd()).free
    if free < needs_bytes + RESERVE_BYTES:
        sys.exit(f"this needs {needs_bytes / 1e9:.1f} GB on disk and {free / 1e9:.1f} GB are free")
    folder = Path(tempfile.mkdtemp(prefix=f".bench-{os.getpid()}-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        with _undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not keep the folder from being removed."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def say(text: str) -> None:
    """What goes on, on standard error."""
    print(text, file=sys.stderr, flush=True)


# -- files ------------------------------------------------------------------------------------------------


def chill(paths: Iterable[Path]) -> None:
    """Drop files from the page cache, so that the next reader takes them from the disk."""
    os.sync()  # what is not written yet cannot be dropped
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def disk_reads(pid: int) -> int:
    """Bytes a process has had read from the disk so far, rather than from the page cache."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def hash_files(paths: Iterable[Path]) -> int:
    """SHA-256 of each file, one after the other; bytes."""
    done = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            hashlib.file_digest(file, "sha256")
            done += file.tell()
    return done


# -- processes --------------------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    """Of any thread of a process; none where it has ended."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def peaks(pids: Callable[[], Mapping[str, int]], *, every_s: float = SAMPLE_S) -> Iterator[dict[str, int]]:
    """Keeps, by name, the largest anonymous memory (RssAnon) in bytes that a process was seen with."""
    found: dict[str, int] = {}
    done = threading.Event()

    def look() -> None:
        for name, pid in pids().items():
            with suppress(ProcessDied):
                found[name] = max(found.get(name, 0), processes.anonymous_bytes(pid))

    def watch() -> None:
        while not done.wait(every_s):
            look()

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
