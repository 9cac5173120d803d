"""The core's database: SQLite by default, or PostgreSQL; the same tables and transactions on both.

One transaction holds a state change and its events. Opening runs the migrations that are missing; a
database that a newer release wrote is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.storage.backend import Backend, Leadership

SCHEMA: Final = "0004"
"""The newest migration of this release."""

# SQLite's INTEGER has 64 bits, PostgreSQL's has 32.
_Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()
events = sa.Table(
    "events",
    metadata,
    sa.Column("sequence", _Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("type", sa.String, nullable=False),
    sa.Column("round", _Integer),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
leaves = sa.Table(
    "leaves",
    metadata,
    sa.Column("sequence", _Integer, primary_key=True, autoincrement=False),
    sa.Column("nodes", sa.LargeBinary, nullable=False),
    info={"derived": True},
)
"""Of each event, the hashes of the subtrees of the Merkle tree that it completes, its own leaf first. It
follows from the events, so no backup holds it."""
snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("scope", sa.String, primary_key=True),
    sa.Column("sequence", _Integer, nullable=False),
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

listings = sa.Table(
    "listings",
    metadata,
    sa.Column("member", sa.String, primary_key=True),
    sa.Column("dataset", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
"""What members publish of their datasets. Not among the events: it can be taken back."""

derivatives = sa.Table(
    "derivatives",
    metadata,
    sa.Column("member", sa.String, primary_key=True),
    sa.Column("derivative", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
)
"""What owners show of their derivatives."""


def kept_tables() -> list[sa.Table]:
    """All tables but those that follow from others."""
    return [table for table in metadata.sorted_tables if not table.info.get("derived")]


class Database:
    """Safe to use from several threads, and while other processes use the same database."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self._backend = backend
        self._writing = threading.Lock()

    @classmethod
    def open(cls, where: Path | str, *, create: bool = False, password: str | None = None) -> Self:
        """Open a database and bring its schema up to date.

        Args:
            where: path of an SQLite file, or URL of a PostgreSQL database (see `PostgreSql`).
            create: make the file where it is missing. A PostgreSQL database must be there, and may be empty.
            password: for PostgreSQL.

        Raises:
            VersionError: a newer release wrote it.
            StoreError: it is missing (without `create`), cannot be reached or read, or is no database.
            AuthError: the server does not let this user in.
            SettingsError: as of `PostgreSql`.
        """
        database = cls(_backend(where, create=create, password=password))
        try:
            with database.transaction() as connection:
                if not _is_current(connection):
                    from tapestry.storage.migrate import migrate

                    migrate(connection, database.name)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: all of it is on disk afterwards, or nothing. Others wait their turn."""
        with self._writing, self._begin(writing=True) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one consistent view, never waiting for a writer."""
        with self._begin(writing=False) as connection:
            yield connection

    @contextmanager
    def _begin(self, *, writing: bool) -> Iterator[Connection]:
        with self._wrapped(), self._backend.engine.connect() as connection, connection.begin():
            self._backend.start(connection, writing=writing)
            yield connection

    def leading(self) -> AbstractContextManager[Leadership]:
        """A candidate for being the one process that coordinates; see `Leadership`."""
        return self._backend.leading()

    def close(self) -> None:
        self._backend.engine.dispose()

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Errors of SQLAlchemy and of drivers leave as ours."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, ConnectionError, TimeoutError) as e:
            raise self._backend.translate(getattr(e, "orig", None) or e) from e


def _backend(where: Path | str, *, create: bool, password: str | None) -> Backend:
    if isinstance(where, str) and "://" in where:
        from tapestry.storage.postgresql import PostgreSql

        return PostgreSql(where, password=password)
    from tapestry.storage.sqlite import Sqlite

    return Sqlite(Path(where), create=create)


def _is_current(connection: Connection) -> bool:
    """Whether the schema is this release's."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all()
    return list(found) == [SCHEMA]
