from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import InvitationError, StoreError, VersionError
from tapestry.host.files import wait_for
from tapestry.storage import events, invitations
from tapestry.storage.database import Database
from tapestry.storage.events import Record


def record(sequence: int, scope: str = "run", type: str = "round-opened", round: int | None = None) -> Record:
    return Record(
        sequence=sequence, at="t", scope=scope, type=type, round=round, digest="d", entry=b"%03d" % sequence
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a new database lies."""
    if request.param == "sqlite":
        return tmp_path / "core.sqlite"
    return str(request.getfixturevalue("postgres").database())


@pytest.fixture
def database(where: Path | str) -> Iterator[Database]:
    database = Database.open(where, create=True)
    yield database
    database.close()


def test_the_declared_tables_are_those_of_the_migrations(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from tapestry.storage.database import metadata

    with database.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    kinds = {d[0] if isinstance(d, tuple) else d[0][0] for d in differences}
    assert kinds <= {"remove_index", "remove_fk"}


def test_the_schema_is_that_of_the_newest_migration() -> None:
    from alembic.script import ScriptDirectory

    from tapestry.storage import database, migrate

    assert ScriptDirectory.from_config(migrate.settings()).get_current_head() == database.SCHEMA


def test_alembic_is_not_imported_where_nothing_is_to_be_migrated(tmp_path: Path) -> None:
    Database.open(tmp_path / "db", create=True).close()
    program = (
        "import sys; from pathlib import Path; from tapestry.storage.database import Database; "
        "Database.open(Path(sys.argv[1])).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "db")], check=True)


def test_logging_is_left_alone(where: Path | str) -> None:
    before = (logging.getLogger().level, list(logging.getLogger().handlers), logging.root.manager.disable)
    level = logging.getLogger("alembic").level
    Database.open(where, create=True).close()
    assert before == (
        logging.getLogger().level,
        list(logging.getLogger().handlers),
        logging.root.manager.disable,
    )
    assert logging.getLogger("alembic").level == level


def test_append_and_read(database: Database) -> None:
    with database.transaction() as connection:
        assert events.head(connection) == 0 and events.first(connection) is None
        events.append(connection, [record(1, "consortium", "founded")], b"s1")
        events.append(connection, [record(2, round=1), record(3, type="round-closed", round=1)], b"s3")
        events.append(connection, [], b"nothing")
    with database.transaction() as connection:
        events.append(connection, [record(4, round=2)], b"s4")
    with database.reading() as connection:
        assert events.head(connection) == 4
        assert [r.sequence for r in events.after(connection, 1, limit=2)] == [2, 3]
        assert [r.sequence for r in events.after(connection, 0, limit=9, max_bytes=7)] == [1, 2]
        assert [r.sequence for r in events.after(connection, 0, limit=9, max_bytes=1)] == [1]
        assert [r.entry for r in events.of_round(connection, "run", 1, "round-closed")] == [b"003"]
        first = events.first(connection)
        assert first is not None and first.type == "founded"
        snapshot = events.snapshot(connection, "run")
        assert snapshot is not None and (snapshot.sequence, snapshot.state) == (4, b"s4")
        assert events.snapshot(connection, "none") is None
        assert events.sequences(connection) == {"consortium": 1, "run": 4}
        assert (events.sequence(connection, "run"), events.sequence(connection, "other")) == (4, None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET at = 'x'",
        "DELETE FROM events",
        "INSERT INTO events VALUES (7, 'a', 'b', 'c', 1, 'd', '')",
        "INSERT INTO snapshots VALUES ('x', 99, '')",
        "no sql at all",
    ],
)
def test_the_log_is_append_only(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        events.append(connection, [record(1)], b"s")
    with pytest.raises(StoreError), database.transaction() as connection:
        connection.exec_driver_sql(statement)
    with database.reading() as connection:
        assert [r.entry for r in events.after(connection, 0, limit=9)] == [b"001"]


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.transaction() as connection:
        events.append(connection, [record(1)], b"s")
        raise RuntimeError
    with database.reading() as connection:
        assert events.head(connection) == 0 and events.snapshot(connection, "run") is None


def test_writers_take_turns_and_readers_do_not_wait(database: Database, where: Path | str) -> None:
    other = Database.open(where)  # as another process

    def write(database: Database) -> None:
        for _ in range(20):
            with database.transaction() as connection:
                events.append(connection, [record(events.head(connection) + 1)], b"s")

    threads = [threading.Thread(target=write, args=(d,)) for d in (database, database, other)]
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        with other.reading() as connection:
            assert len(events.after(connection, 0, limit=99)) == events.head(connection)
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert events.head(connection) == 60
    other.close()


def test_invitations(database: Database) -> None:
    with database.transaction() as connection:
        invitations.add(connection, "hash1", "ada", "2026-01-02")
    for token, member, at in (
        ("hash2", "ada", "2026-01-01"),
        ("hash1", "eve", "2026-01-01"),
        ("hash1", "ada", "2026-01-02"),
    ):
        with pytest.raises(InvitationError), database.transaction() as connection:
            invitations.use(connection, token, member, at)
    with database.transaction() as connection:
        invitations.use(connection, "hash1", "ada", "2026-01-01")
    with pytest.raises(InvitationError, match="used"), database.transaction() as connection:
        invitations.use(connection, "hash1", "ada", "2026-01-01")
    with database.reading() as connection:
        assert [(i.member, i.used_at) for i in invitations.listed(connection)] == [("ada", "2026-01-01")]


def test_a_newer_schema_is_refused(database: Database, where: Path | str) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(VersionError, match="9999"):
        Database.open(where)


def test_one_leads(database: Database, where: Path | str) -> None:
    other = Database.open(where)
    with database.leading() as first, other.leading() as second:
        assert first.acquire() and not second.acquire()
        assert first.acquire() and not second.acquire()  # however often one asks
    with other.leading() as second:
        assert wait_for(second.acquire, timeout_s=20)  # the server takes a moment to see a session end
    other.close()
