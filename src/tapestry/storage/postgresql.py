"""PostgreSQL, through pg8000. Several processes on several hosts may share one database."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.errors import AuthError, Busy, DiskFull, SettingsError, StoreError, TapestryError
from tapestry.storage.backend import Leadership

PORT: Final = 5432
WRITE_LOCK: Final = 0x7461_7065_0001
LEAD_LOCK: Final = 0x7461_7065_0002
"""Keys of advisory locks, which are per database."""
LOCK_MS: Final = 10_000
HUNG_MS: Final = 30_000
"""A process that stops in the middle of a transaction loses it, and others go on, after so long."""
NETWORK_S: Final = 40.0
SSL_MODES: Final = ("disable", "verify-full")
TOO_BUSY: Final = ("55P03", "57014", "53300")
NO_SPACE: Final = ("53100", "53200")
NO_ENTRY: Final = ("28000", "28P01", "3D000", "42501")
LOST: Final = ("08", "57P", "25P03")
"""SQLSTATE codes: lock not available, cancelled, too many connections; disk full, out of memory;
wrong user, wrong password, no such database, no right to it; connection lost, server going down or
starting, transaction hung."""


class PostgreSql:
    """A database of a server.

    Args:
        url: `postgresql://USER@HOST[:PORT]/DATABASE`, or `postgresql://USER@/DATABASE?host=FOLDER` for a
            Unix socket in a folder. `sslmode=disable` does without TLS; otherwise a server elsewhere than on
            this machine must have a certificate for its name, from an authority that the system trusts or
            that `sslrootcert=FILE` names.
        password: of the user; never part of the URL.

    Raises:
        SettingsError: the URL says something else, or the driver is not installed.
    """

    def __init__(self, url: str, *, password: str | None = None) -> None:
        parsed = _parse(url)
        self.name = f"{parsed.database} on {parsed.host or 'this machine'}"
        try:
            self.engine = sa.create_engine(
                sa.URL.create(
                    "postgresql+pg8000",
                    username=parsed.username,
                    password=password,
                    host=parsed.host,
                    port=parsed.port or (PORT if parsed.host else None),
                    database=parsed.database,
                ),
                connect_args=_connect_args(parsed),
                pool_size=8,
                max_overflow=32,
            )
        except ImportError as e:
            raise SettingsError(
                "the database is PostgreSQL, and its driver is not installed",
                hint="install the extra: pip install 'tapestry[core,postgresql]'",
            ) from e
        sa.event.listen(self.engine, "connect", _prepare)
        sa.event.listen(self.engine, "checkout", self._ping)
        # It logs tracebacks of connections that were lost; whoever used one gets our error.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

    def _ping(self, connection: Any, _record: Any, _proxy: Any) -> None:
        """Have the pool replace a connection that was lost meanwhile. Its own `pre_ping` does not know that
        this driver also raises bare errors of the socket."""
        driver: Any = self.engine.dialect.dbapi
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            connection.rollback()
        except (OSError, driver.Error) as e:
            raise sa.exc.DisconnectionError from e

    def start(self, connection: Connection, *, writing: bool) -> None:
        if writing:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def translate(self, cause: BaseException) -> TapestryError:
        said = _said(cause)
        code, text = str(said.get("C", "")), str(said.get("M") or cause or type(cause).__name__)
        text = (text.splitlines() or [""])[0][:300]
        if code in NO_SPACE:
            return DiskFull(
                f"no space left for database {self.name}", hint="free some there; nothing was lost"
            )
        if code in TOO_BUSY:
            return Busy(f"database {self.name} is busy: {text}")
        if code in NO_ENTRY:
            return AuthError(
                f"database {self.name} does not let this core in: {text}",
                hint="see the database's address in core.toml, and its password",
            )
        if not code or code.startswith(LOST):
            return StoreError(
                f"database {self.name} cannot be reached: {text}",
                hint="see that its server runs; nothing was lost",
            )
        return StoreError(f"database {self.name}: {text}")

    @contextmanager
    def leading(self) -> Iterator[Leadership]:
        lock = _SessionLeadership(self)
        try:
            yield lock
        finally:
            lock.release()


class _SessionLeadership:
    """An advisory lock of a session of its own; the server lets go of it when the session ends."""

    def __init__(self, backend: PostgreSql) -> None:
        self._backend = backend
        self._session: Connection | None = None

    def acquire(self) -> bool:
        try:
            if self._session is not None:
                self._session.exec_driver_sql("SELECT 1")
                return True
            session = self._backend.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            try:
                if session.exec_driver_sql(f"SELECT pg_try_advisory_lock({LEAD_LOCK})").scalar():
                    self._session = session
                    return True
            finally:
                if self._session is None:
                    session.close()
            return False
        except (sa.exc.SQLAlchemyError, OSError) as e:
            self.release()
            raise self._backend.translate(getattr(e, "orig", None) or e) from e

    def release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(sa.exc.SQLAlchemyError, OSError):
                session.invalidate()  # ends the session, and with it the lock
                session.close()


def _said(error: BaseException | None) -> dict[str, str]:
    """What the server said. The driver may hide it behind its own failure to close the connection."""
    for _ in range(4):
        if error is None:
            break
        if error.args and isinstance(error.args[0], dict):
            return error.args[0]
        error = error.__context__
    return {}


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as e:
        raise SettingsError(f"the database's address is not a URL: {e}") from e
    form = "postgresql://USER@HOST[:PORT]/DATABASE"
    if parsed.password is not None:
        raise SettingsError(
            "a password does not belong into the database's address",
            hint="write it into keys/database.password (mode 0600), or set TAPESTRY_DATABASE_PASSWORD",
        )
    if parsed.drivername != "postgresql" or not parsed.username or not parsed.database:
        raise SettingsError("the database's address lacks something", hint=f"write {form}")
    unknown = set(parsed.query) - {"host", "sslmode", "sslrootcert"}
    if unknown:
        raise SettingsError(f"the database's address has a parameter {min(unknown)!r}, which is not known")
    if bool(parsed.host) == ("host" in parsed.query):
        raise SettingsError("the database's address must name one host", hint=f"write {form}")
    if parsed.query.get("sslmode", "verify-full") not in SSL_MODES:
        raise SettingsError(f"sslmode must be one of {', '.join(SSL_MODES)}")
    return parsed


def _connect_args(url: sa.URL) -> dict[str, Any]:
    args: dict[str, Any] = {"timeout": NETWORK_S, "tcp_keepalive": True, "application_name": "tapestry"}
    if "host" in url.query:
        return {**args, "unix_sock": f"{url.query['host']}/.s.PGSQL.{url.port or PORT}"}
    here = url.host == "localhost" or _is_loopback(str(url.host))
    if url.query.get("sslmode", "disable" if here else "verify-full") == "disable":
        return args
    authority = url.query.get("sslrootcert")
    try:
        return {
            **args,
            "ssl_context": ssl.create_default_context(cafile=str(authority) if authority else None),
        }
    except (OSError, ssl.SSLError) as e:
        raise SettingsError(f"sslrootcert {authority} cannot be used: {e}") from e


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _prepare(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for setting in (
        "synchronous_commit = on",
        f"lock_timeout = {LOCK_MS}",
        f"idle_in_transaction_session_timeout = {HUNG_MS}",
        "timezone = 'UTC'",
    ):
        cursor.execute(f"SET {setting}")
    cursor.close()
    connection.commit()
