"""Where things lie in a core's home; see "Core home" in docs/architecture.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tapestry.errors import SettingsError


@dataclass(frozen=True)
class Home:
    """Paths of one core. Nothing is made or read by asking for a path."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "core.toml"

    @property
    def key(self) -> Path:
        return self.root / "keys" / "core.key"

    @property
    def database_password(self) -> Path:
        """Where the database has one; mode 0600."""
        return self.root / "keys" / "database.password"

    @property
    def object_store(self) -> Path:
        """Credentials, where the blobs are in an object store; mode 0600."""
        return self.root / "keys" / "object_store.toml"

    @property
    def release_key(self) -> Path:
        """Says which list of releases is the newest, and signs nothing else; made by the first proposal of a
        release; mode 0600."""
        return self.root / "keys" / "release.key"

    @property
    def sketch_seed(self) -> Path:
        """The secret that sketches of deltas are drawn with; made once it is needed; mode 0600."""
        return self.root / "keys" / "sketch.seed"

    @property
    def sketches(self) -> Path:
        """Of deltas, a small file each; what is lost is drawn again."""
        return self.root / "sketches"

    @property
    def status(self) -> Path:
        """`{"pid", "url"}` while the core listens."""
        return self.root / "status" / "core.json"

    @property
    def progress(self) -> Path:
        """What nodes said last of the round they train, while the core listens; see `core.telling`."""
        return self.root / "status" / "progress.json"

    @property
    def log(self) -> Path:
        return self.root / "logs" / "core.log"

    def check(self) -> None:
        """Raise `SettingsError` unless a core was set up here."""
        if not self.settings.is_file():
            raise SettingsError(
                f"{self.root} is not a core's home: it has no core.toml",
                hint="make one with: tapestry core init",
            )
