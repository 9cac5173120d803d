"""One core with its parts, opened from its home; `serve` and the operator's commands begin here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tapestry.core.clock import Clock, now_ms
from tapestry.core.consortium import Consortium
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.runs import Runs
from tapestry.core.settings import CoreSettings, load
from tapestry.errors import SettingsError
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.storage.blobs import BlobStore
from tapestry.storage.database import Database

MAX_KEY_BYTES: Final = 16 << 10


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
        database = Database.open(settings.database_path(home))
        try:
            journal = Journal(database, clock=clock)
            store = BlobStore.open(settings.blobs_path(home))
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

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def load_key(home: Home) -> KeyPair:
    """The core's key. Raises `SettingsError` or `InputError`."""
    try:
        return KeyPair.from_pem(files.read_limited(home.key, MAX_KEY_BYTES))
    except OSError as e:
        raise SettingsError(
            f"the core's key {home.key} cannot be read: {e.strerror}", hint="restore it from your backup"
        ) from e
