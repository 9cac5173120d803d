from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tapestry.errors import DiskFull, StoreError
from tapestry.storage import events
from tapestry.storage.database import Database
from tests.full_disk import FILL, run_on_small_disk
from tests.storage.test_database import record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core.sqlite"


@pytest.fixture
def database(path: Path) -> Database:
    return Database.open(path, create=True)


def test_settings_and_schema(database: Database) -> None:
    with database.reading() as connection:
        pragmas = {
            p: connection.exec_driver_sql(f"PRAGMA {p}").scalar()
            for p in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        names = set(sa.inspect(connection).get_table_names())
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    assert names == {
        "events", "leaves", "snapshots", "invitations", "listings", "derivatives", "alembic_version",
    }  # fmt: skip
    database.close()


def test_missing_and_foreign_files(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Database.open(path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError):
        Database.open(path)


def test_rounds_are_found_by_index(database: Database) -> None:
    with database.reading() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM events WHERE scope = 'run' AND round = 5 ORDER BY sequence"
        ).all()
    assert "USING INDEX events_of_round" in str(plan)


def test_no_space_is_disk_full(database: Database) -> None:
    with pytest.raises(DiskFull), database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for sequence in range(1, 1000):
            events.append(connection, [record(sequence)], b"s" * 4000)
    with database.reading() as connection:
        assert events.head(connection) == 0


def test_an_input_output_error_on_a_full_disk_is_disk_full(tmp_path: Path) -> None:
    """Where SQLite has to make its shared-memory file, which it does not call a full disk."""
    code = FILL + (
        "import sqlite3\n"
        "from tapestry.errors import TapestryError; from tapestry.storage.database import Database\n"
        "Database.open(disk / 'core.sqlite', create=True).close(); fill()\n"
        "try: Database.open(disk / 'core.sqlite')\n"
        "except TapestryError as e:\n"
        "  print(type(e).__name__, e.__cause__.orig.sqlite_errorcode & 0xff == sqlite3.SQLITE_IOERR)\n"
        "free(); Database.open(disk / 'core.sqlite').close(); print('opened')"
    )
    assert run_on_small_disk(tmp_path, code, kib=512) == "DiskFull True\nopened\n"


def test_replacing_an_event_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        events.append(connection, [record(1)], b"s")
    with pytest.raises(StoreError), database.transaction() as connection:
        connection.exec_driver_sql("INSERT OR REPLACE INTO events VALUES (1, 'a', 'b', 'c', 1, 'd', x'00')")
