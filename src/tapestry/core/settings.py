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


class CoreSettings(_Section):
    """All of core.toml."""

    host: Annotated[str, StringConstraints(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """0: whichever is free; status/core.json says which."""
    database: FilePath = "core.sqlite"
    blobs: FilePath = "blobs"
    """A folder."""
    tls: TlsSection | None = None
    limits: LimitsSection = LimitsSection()

    def database_path(self, home: Home) -> Path:
        return home.root / self.database

    def blobs_path(self, home: Home) -> Path:
        return home.root / self.blobs


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
# Relative paths lie below this folder.
database = {json.dumps(settings.database)}
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
    return text
