"""The core's database: SQLite in WAL mode with full sync; writers take turns from their first word on.

One transaction holds a state change and its events. Opening runs the migrations that are missing; a
database that a newer release wrote is refused.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from tapestry.errors import DiskFull, StoreError, TapestryError, VersionError

BUSY_MS: Final = 10_000
PAGE_BYTES: Final = 64 << 10
_IMMEDIATE: Final = "tapestry_immediate"

metadata = sa.MetaData()
events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("type", sa.String, nullable=False),
    sa.Column("round", sa.Integer),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("token", sa.String, primary_key=True),
    sa.Column("member", sa.String, nullable=False),
    sa.Column("expires", sa.String, nullable=False),
    sa.Column("used_at", sa.String),
)


class Database:
    """Safe to use from several threads, and while another process uses the same file."""

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self._engine = engine
        self._writing = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open the database file and bring its schema up to date.

        Args:
            path: the file.
            create: make it where it is missing.

        Raises:
            VersionError: a newer release wrote it.
            StoreError: it is missing (without `create`), cannot be read, or is no database.
        """
        if not create and not path.is_file():
            raise StoreError(f"database {path} does not exist", hint="run: tapestry core init")
        database = cls(path, _engine(path))
        try:
            with database.transaction() as connection:
                _migrate(connection, path)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction (BEGIN IMMEDIATE): all of it is on disk afterwards, or nothing."""
        with self._writing, self._begin(immediate=True) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one consistent view, never waiting for a writer."""
        with self._begin(immediate=False) as connection:
            yield connection

    @contextmanager
    def _begin(self, *, immediate: bool) -> Iterator[Connection]:
        with wrapped(self.path):
            connection = self._engine.connect().execution_options(**{_IMMEDIATE: immediate})
            try:
                with connection.begin():
                    yield connection
            finally:
                connection.close()

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def wrapped(path: Path) -> Iterator[None]:
    """Errors of SQLAlchemy and SQLite leave as `DiskFull` or `StoreError`."""
    try:
        yield
    except sa.exc.SQLAlchemyError as e:
        cause = getattr(e, "orig", None) or e
        raise _translate(cause, path) from e
    except sqlite3.Error as e:
        raise _translate(e, path) from e


def _translate(cause: BaseException, path: Path) -> TapestryError:
    code = getattr(cause, "sqlite_errorcode", None)
    full = code is not None and code & 0xFF == sqlite3.SQLITE_FULL
    # its shared-memory file cannot grow on a full disk, which SQLite calls an I/O error
    full = full or (code is not None and code & 0xFF == sqlite3.SQLITE_IOERR and _no_space(path))
    if full or getattr(cause, "errno", None) == errno.ENOSPC:
        return DiskFull(f"no space left for database {path.name}", hint="free some space; nothing was lost")
    text = (str(cause).splitlines() or [type(cause).__name__])[0][:300]
    return StoreError(f"database {path.name}: {text}")


def _no_space(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < PAGE_BYTES
    except OSError:
        return False


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False, "isolation_level": None},
        poolclass=sa.pool.QueuePool,
        pool_size=8,
        max_overflow=32,
    )
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _start)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_start` says so
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


def _start(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_IMMEDIATE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _migrate(connection: Connection, path: Path) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    if current == head:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise VersionError(
            f"database {path.name} has schema {current}, newer than {head} of this release",
            hint="upgrade Tapestry to the release that wrote it",
        )
    log = logging.getLogger("alembic")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    finally:
        log.setLevel(level)
