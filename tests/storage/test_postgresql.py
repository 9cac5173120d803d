from __future__ import annotations

import time
from pathlib import Path

import pytest

from tapestry.errors import AuthError, Busy, SettingsError, StoreError
from tapestry.storage import events, postgresql
from tapestry.storage.database import Database
from tests.postgresql import Server
from tests.storage.test_database import record


def test_tables_and_their_guards(postgres: Server) -> None:
    database = Database.open(postgres.database())
    with database.transaction() as connection:
        events.append(connection, [record(1)], b"s")
    with pytest.raises(StoreError, match="append-only"), database.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE events CASCADE")
    with pytest.raises(StoreError), database.reading() as connection:
        connection.exec_driver_sql("CREATE TABLE x (y INTEGER)")  # a reader cannot write
    database.close()


def test_every_transaction_survives_the_loss_of_its_connection(postgres: Server) -> None:
    """It fails with a clear error, leaves nothing behind, and the next one works."""
    database = Database.open(postgres.database())
    for step in range(3):
        with pytest.raises(StoreError, match="cannot be reached"), database.transaction() as connection:
            if step > 0:
                events.append(connection, [record(1)], b"s")
            if step > 1:
                events.append(connection, [record(2)], b"s")
            postgres.end_sessions()
            events.head(connection)
    with database.reading() as connection:
        assert events.head(connection) == 0
    postgres.end_sessions()
    with database.transaction() as connection:
        events.append(connection, [record(1)], b"s")
    with pytest.raises(StoreError), database.reading() as connection:
        postgres.end_sessions()
        events.head(connection)
    with database.reading() as connection:
        assert events.head(connection) == 1
    database.close()


def test_a_writer_that_hangs_is_cut_off(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    where = postgres.database()
    monkeypatch.setattr(postgresql, "LOCK_MS", 300)
    patient, hanging = Database.open(where), Database.open(where)
    with hanging.transaction() as stuck:
        stuck.exec_driver_sql("SELECT 1")
        with pytest.raises(Busy, match="busy"), patient.transaction():
            pass  # positive control: the lock is real
    monkeypatch.setattr(postgresql, "HUNG_MS", 200)
    hung = Database.open(where)
    with pytest.raises(StoreError), hung.transaction() as stuck:
        time.sleep(1)
        with patient.transaction() as connection:
            events.append(connection, [record(1)], b"s")
        events.head(stuck)
    for database in (patient, hanging, hung):
        database.close()


def test_leadership_ends_with_the_connection(postgres: Server) -> None:
    where = postgres.database()
    first, second = Database.open(where), Database.open(where)
    with first.leading() as leader, second.leading() as next_one:
        assert leader.acquire() and not next_one.acquire()
        postgres.end_sessions()
        with pytest.raises(StoreError):
            leader.acquire()
        assert next_one.acquire()
        assert not leader.acquire()
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ada:secret@db.example/x", "password"),
        ("postgresql+asyncpg://ada@db.example/x", "lacks something"),
        ("mysql://ada@db.example/x", "lacks something"),
        ("postgresql://db.example/x", "lacks something"),
        ("postgresql://ada@db.example/", "lacks something"),
        ("postgresql://ada@/x", "one host"),
        ("postgresql://ada@db.example/x?host=/run/postgresql", "one host"),
        ("postgresql://ada@db.example/x?ssl=off", "'ssl'"),
        ("postgresql://ada@db.example/x?sslmode=prefer", "sslmode"),
        ("postgresql://ada@db.example/x?sslrootcert=/nowhere.pem", "sslrootcert"),
        ("postgresql://ada@db.example:port/x", "not a URL"),
    ],
)
def test_addresses_that_are_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        Database.open(url)
    assert "secret" not in str(caught.value)


def test_tls_unless_the_server_is_on_this_machine() -> None:
    def tls(url: str) -> bool:
        return "ssl_context" in postgresql._connect_args(postgresql._parse(url))

    assert tls("postgresql://ada@db.example/x")
    assert not tls("postgresql://ada@db.example/x?sslmode=disable")
    assert not tls("postgresql://ada@127.0.0.1/x")
    assert not tls("postgresql://ada@[::1]/x")


def test_a_server_that_is_not_there_or_knows_nobody(postgres: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        Database.open(f"postgresql://ada@/x?host={tmp_path}")
    with pytest.raises(StoreError, match="cannot be reached"):
        Database.open("postgresql://ada@127.0.0.1:1/x")
    where = postgres.database()
    with pytest.raises(AuthError, match="does not let this core in"):
        Database.open(where.replace("@/t", "@/nowhere"))
    with pytest.raises(AuthError, match="does not let this core in"):
        Database.open(where.replace("postgres@", "nobody@"))
