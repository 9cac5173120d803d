"""`core.toml`: what the operator of a core decides."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tapestry.core.home import Home
from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.protocol.layout import MAX_BLOB_BYTES
from tapestry.protocol.message import explain
from tapestry.transport.observe import MetricsSection

MAX_SETTINGS_BYTES: Final = 64 << 10
DEFAULT_PORT: Final = 8440

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
"""Relative ones lie below the core's home."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TlsSection(_Section):
    certificate: FilePath
    """PEM; the core's own certificate first, then those that lead to the authority."""
    key: FilePath


class LimitsSection(_Section):
    blob_bytes: Annotated[int, Field(ge=1 << 20, le=MAX_BLOB_BYTES)] = MAX_BLOB_BYTES
    """Largest blob that is accepted."""
    pending_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 53)] = 64 << 30
    """Bytes one node may have uploaded that no accepted contribution uses."""
    connections: Annotated[int, Field(ge=1, le=1 << 16)] = 256
    """Connections at once."""


class ObjectStoreSection(_Section):
    """Used where `blobs` is an object store."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://\S+$", max_length=1024)] | None = None
    """URL of the service, where it is not the provider's own."""
    region: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    """Of S3."""
    cache: FilePath = "cache"
    """Folder where blobs lie while they are worked with."""
    cache_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 53)] = 64 << 30
    """What the cache may hold."""
    direct: bool = False
    """Whether larger blobs go straight between nodes and the store, by signed URLs."""
    direct_s: Annotated[int, Field(ge=60, le=86_400)] = 600
    """How long a URL is good, in seconds."""


class LedgerSection(_Section):
    mirror: FilePath | None = None
    """Folder of a static mirror of the ledger, for a web server or whoever copies it (`audit.pieces`)."""


class CoreSettings(_Section):
    """All of core.toml."""

    host: Annotated[str, StringConstraints(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """0: whichever is free; status/core.json says which."""
    database: FilePath = "core.sqlite"
    """A file, or `postgresql://USER@HOST/DATABASE` (see `storage.postgresql`)."""
    blobs: FilePath = "blobs"
    """A folder, or an object store: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`."""
    tls: TlsSection | None = None
    limits: LimitsSection = LimitsSection()
    object_store: ObjectStoreSection = ObjectStoreSection()
    ledger: LedgerSection = LedgerSection()
    metrics: MetricsSection = MetricsSection()

    def database_at(self, home: Home) -> Path | str:
        """Path or URL."""
        return self.database if "://" in self.database else home.root / self.database

    def blobs_at(self, home: Home) -> Path | str:
        """Path or URL."""
        return self.blobs if "://" in self.blobs else home.root / self.blobs

    def mirror_at(self, home: Home) -> Path | None:
        return None if self.ledger.mirror is None else home.root / self.ledger.mirror


def make(**fields: object) -> CoreSettings:
    """Checked settings. Raises `SettingsError` naming the field."""
    try:
        return CoreSettings.model_validate(fields)
    except ValidationError as e:
        raise SettingsError(f"core settings: {explain(e)}") from e


def parse(text: str, where: Path) -> CoreSettings:
    """Settings from TOML. Raises `SettingsError` naming the file and the field."""
    try:
        return CoreSettings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as e:
        raise SettingsError(f"{where} is not valid TOML: {e}") from e
    except ValidationError as e:
        raise SettingsError(f"{where}: {explain(e)}", hint="correct that field and start again") from e


def load(home: Home) -> CoreSettings:
    """The settings of a home. Raises `SettingsError`."""
    home.check()
    try:
        text = files.read_limited(home.settings, MAX_SETTINGS_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, TapestryError) as e:
        raise SettingsError(f"{home.settings} cannot be read: {e}") from e
    return parse(text, home.settings)


def render(settings: CoreSettings) -> str:
    """The settings as a commented file. A JSON string is a TOML string."""
    limits = settings.limits
    text = f"""\
# Settings of a Tapestry core. See docs/guides/run-a-core.md.

host = {json.dumps(settings.host)}
# 0 takes whichever port is free; status/core.json says which.
port = {settings.port}
# Relative paths lie below this folder. A PostgreSQL database: "postgresql://USER@HOST/DATABASE", its
# password in keys/database.password or the variable TAPESTRY_DATABASE_PASSWORD.
database = {json.dumps(settings.database)}
# Or an object store: "s3://BUCKET/PREFIX", with [object_store] below; its credentials in
# keys/object_store.toml or the environment.
blobs = {json.dumps(settings.blobs)}

[limits]
# Largest blob that is accepted.
blob_bytes = {limits.blob_bytes}
# Bytes one node may have uploaded that no accepted contribution uses.
pending_bytes = {limits.pending_bytes}
connections = {limits.connections}
"""
    if settings.tls is not None:
        text += f"""
[tls]
certificate = {json.dumps(settings.tls.certificate)}
key = {json.dumps(settings.tls.key)}
"""
    if settings.object_store != ObjectStoreSection():
        given = settings.object_store.model_dump(exclude_none=True)
        lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items())
        text += f"\n[object_store]\n{lines}"
    if settings.ledger.mirror is not None:
        text += f"\n[ledger]\nmirror = {json.dumps(settings.ledger.mirror)}\n"
    if settings.metrics.port is not None:
        text += f"\n[metrics]\nhost = {json.dumps(settings.metrics.host)}\nport = {settings.metrics.port}\n"
    return text
