"""Brings a database's schema up to date, by alembic. Imported by `database` only where there is something to
do: alembic and what it brings along would take 12 MB of every core for as long as it serves."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from tapestry.errors import VersionError


def settings() -> Config:
    """Alembic's, with the migrations of this release."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def migrate(connection: Connection, name: str) -> None:
    """Run the migrations that are missing. Raises `VersionError` where a newer release wrote the database."""
    config = settings()
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    if current == head:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise VersionError(
            f"database {name} has schema {current}, newer than {head} of this release",
            hint="upgrade Tapestry to the release that wrote it",
        )
    log = logging.getLogger("alembic")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    finally:
        log.setLevel(level)
