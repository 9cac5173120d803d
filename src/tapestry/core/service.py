"""One core with its parts, opened from its home; `serve` and the operator's commands begin here."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tapestry.core.clock import Clock, now_ms
from tapestry.core.consortium import Consortium
from tapestry.core.copies import Copies, Screen
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.runs import Runs
from tapestry.core.settings import CoreSettings, load
from tapestry.errors import InputError, SettingsError
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.storage.blobs import BlobStore
from tapestry.storage.bucket import Bucket, Place, is_bucket
from tapestry.storage.database import Database
from tapestry.storage.tiered import TieredStore

MAX_KEY_BYTES: Final = 16 << 10
PASSWORD_VARIABLE: Final = "TAPESTRY_DATABASE_PASSWORD"  # noqa: S105 - a name, not a password


@dataclass(frozen=True, kw_only=True)
class Core:
    """Everything of one core but its processes."""

    home: Home
    settings: CoreSettings
    database: Database
    journal: Journal
    store: BlobStore
    consortium: Consortium
    runs: Runs

    @classmethod
    def open(cls, root: Path, *, clock: Clock = now_ms) -> Self:
        """The core in folder `root`; several processes may have it open.

        Raises:
            SettingsError: there is none, or its settings or key cannot be read.
            StoreError, VersionError: its database cannot be used.
            AuthError: key and database do not belong together.
        """
        home = Home(root)
        settings = load(home)
        key = load_key(home)
        database = open_database(home, settings)
        try:
            journal = Journal(database, clock=clock)
            store = open_store(home, settings)
            consortium = Consortium(journal, key)
        except BaseException:
            database.close()
            raise
        return cls(
            home=home,
            settings=settings,
            database=database,
            journal=journal,
            store=store,
            consortium=consortium,
            runs=Runs(journal, store, consortium),
        )

    def copies(self, replay: Screen) -> Copies:
        """Finds copied contributions, with the secret and the sketches of this home."""
        return Copies(self.runs, replay, seed=lambda: load_sketch_seed(self.home), folder=self.home.sketches)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_database(home: Home, settings: CoreSettings, *, create: bool = False) -> Database:
    """The database that the settings name. Raises as `Database.open`, and `SettingsError`."""
    return Database.open(settings.database_at(home), create=create, password=_database_password(home))


def _database_password(home: Home) -> str | None:
    given = os.environ.get(PASSWORD_VARIABLE)
    path = home.database_password
    if given is not None or not path.exists():
        return given
    return _private_text(path, "the database's password").rstrip("\r\n")


def open_store(home: Home, settings: CoreSettings) -> BlobStore:
    """The blob store that the settings name; no request is made to an object store yet.

    Raises:
        SettingsError: it is none, or its credentials cannot be read.
        StoreError: its folder cannot be used.
    """
    where = settings.blobs_at(home)
    if not isinstance(where, str) or not is_bucket(where):
        return BlobStore.open(where)
    section = settings.object_store
    place = Place(
        url=where,
        endpoint=section.endpoint,
        region=section.region,
        credentials=_object_store_credentials(home),
    )
    return TieredStore(Bucket(place), home.root / section.cache, cache_bytes=section.cache_bytes)


def _object_store_credentials(home: Home) -> dict[str, str]:
    path = home.object_store
    text = _private_text(path, "the object store's credentials") if path.exists() else ""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # its text may quote a secret
        raise SettingsError(f"{path} is not valid TOML", hint='write NAME = "value", a line each') from None
    if not all(isinstance(value, str) for value in found.values()):
        raise SettingsError(f"{path}: every value must be a string", hint='write NAME = "value"')
    return found


def _private_text(path: Path, what: str) -> str:
    try:
        if path.stat().st_mode & 0o077:
            raise SettingsError(f"others may read {path}", hint=f"run: chmod 600 {path}")
        return files.read_limited(path, MAX_KEY_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{what} {path} cannot be read: {e}") from e


def load_key(home: Home) -> KeyPair:
    """The core's key. Raises `SettingsError` or `InputError`."""
    try:
        return KeyPair.from_pem(files.read_limited(home.key, MAX_KEY_BYTES))
    except OSError as e:
        raise SettingsError(
            f"the core's key {home.key} cannot be read: {e.strerror}", hint="restore it from your backup"
        ) from e


def load_sketch_seed(home: Home) -> str:
    """The secret of this core's sketches, 64 hexadecimal digits; made where there is none yet.

    Raises:
        SettingsError: it cannot be read, or others may read it.
        DiskFull: no space for a new one.
    """
    path = home.sketch_seed
    if not path.exists():
        with contextlib.suppress(InputError):  # another made it just now
            files.private_write(path, secrets.token_hex(32).encode() + b"\n")
    text = _private_text(path, "the secret of sketches").strip()
    if re.fullmatch("[0-9a-f]{64}", text) is None:
        raise SettingsError(
            f"{path} does not hold 64 hexadecimal digits", hint="remove it, and the core makes another"
        )
    return text
