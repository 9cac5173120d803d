"""SQLite: one file in WAL mode with full sync; writers take turns from their first word on."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.errors import Busy, DiskFull, StoreError, TapestryError
from tapestry.host import files
from tapestry.storage.backend import Leadership

BUSY_MS: Final = 10_000
PAGE_BYTES: Final = 64 << 10


class Sqlite:
    """A database in one file.

    Args:
        path: the file.
        create: make it where it is missing.

    Raises:
        StoreError: it is missing.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        if not create and not path.is_file():
            raise StoreError(f"database {path} does not exist", hint="run: tapestry core init")
        self.path = path
        self.name = path.name
        self.engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False, "isolation_level": None},
            poolclass=sa.pool.QueuePool,
            pool_size=8,
            max_overflow=32,
        )
        sa.event.listen(self.engine, "connect", _prepare)

    def start(self, connection: Connection, *, writing: bool) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    def translate(self, cause: BaseException) -> TapestryError:
        code = getattr(cause, "sqlite_errorcode", None)
        full = code is not None and code & 0xFF == sqlite3.SQLITE_FULL
        # its shared-memory file cannot grow on a full disk, which SQLite calls an I/O error
        full = full or (code is not None and code & 0xFF == sqlite3.SQLITE_IOERR and _no_space(self.path))
        if full or getattr(cause, "errno", None) == errno.ENOSPC:
            return DiskFull(
                f"no space left for database {self.name}", hint="free some space; nothing was lost"
            )
        text = (str(cause).splitlines() or [type(cause).__name__])[0][:300]
        return StoreError(f"database {self.name}: {text}")

    @contextmanager
    def leading(self) -> Iterator[Leadership]:
        lock = _FileLeadership(self.path)
        try:
            yield lock
        finally:
            lock.release()


class _FileLeadership:
    """A lock file beside the database; the kernel lets go of it when its process ends."""

    def __init__(self, path: Path) -> None:
        self._lock = files.Lock(path.with_name(path.name + ".lead"))
        self._held = False

    def acquire(self) -> bool:
        if not self._held:
            try:
                self._lock.acquire()
            except Busy:
                return False
            self._held = True
        return True

    def release(self) -> None:
        if self._held:
            self._lock.release()


def _no_space(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < PAGE_BYTES
    except OSError:
        return False


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `start` says so
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_MS}",
        "trusted_schema=OFF",
        "cache_size=-2000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
