"""A copy of a core that any later release, on any database, can be set up from.

A backup is a folder: `core.toml`, `keys/`, `database.jsonl` (every row, one JSON line each, the last line
says how many) and `blobs/`. The rows are of one moment; blobs are copied after them: those that the store
lists, and then by name those that the rows name, since the listing of an object store may lag behind. What
is lost at the core is counted. Into the same folder again, only new blobs are copied. The folder holds the
core's key: keep it as one keeps that.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tapestry.core.consortium import Consortium
from tapestry.core.copying import Copy
from tapestry.core.home import Home
from tapestry.core.journal import Journal
from tapestry.core.references import References
from tapestry.core.service import Core, load_key, open_database, open_store
from tapestry.core.settings import CoreSettings, load, render
from tapestry.errors import AuthError, FormatError, SettingsError
from tapestry.host import files
from tapestry.protocol import canonical
from tapestry.storage.blobs import BlobStore
from tapestry.storage.database import Database, events, kept_tables, metadata
from tapestry.storage.events import regrow

ROWS: Final = "database.jsonl"
BLOBS: Final = "blobs"
MAX_LINE_BYTES: Final = 128 << 20
BATCH: Final = 500
"""Rows written in one statement."""

Progress = Callable[[int, int], None]
"""Told how many blobs of how many are done."""


def backup(root: Path, target: Path, *, progress: Progress = lambda _done, _all: None) -> dict[str, int]:
    """Copy the core in `root`, which may serve meanwhile, into the folder `target`.

    Returns:
        `events`, `blobs` (all that are in the backup now), `copied` (those that were not before) and
        `lacking` (those that the log names, retention has not erased, and the core could not give).

    Raises:
        SettingsError: `target` holds something else, or another core's backup.
        DiskFull: no space; what was there stays a whole backup.
    """
    with Core.open(root) as core, files.full_disk(target):
        _claim(core.home, target)
        with files.Lock(target):
            counts = _write_rows(core.database, target / ROWS)
            copy = Copy(BlobStore.open(target / BLOBS), [core.store])
            wanted = dict.fromkeys(blob.sha256 for blob in core.store.iterate())
            named = set(References(core.runs, copy.read).named())
            wanted |= dict.fromkeys(sorted(named))
            for number, sha in enumerate(wanted):
                progress(number, len(wanted))
                copy.bring(sha)
            progress(len(wanted), len(wanted))
            settings = render(core.settings).encode()
            files.write_atomic(target / "core.toml", settings)
    lacking = len(named & copy.lost)
    blobs = len(wanted) - len(copy.lost & wanted.keys())
    return {"events": counts["events"], "blobs": blobs, "copied": copy.copied, "lacking": lacking}


def restore(
    source: Path,
    root: Path,
    *,
    settings: CoreSettings | None = None,
    progress: Progress = lambda _done, _all: None,
) -> dict[str, int]:
    """Set up a core in `root` from a backup.

    Args:
        source: the backup.
        root: a folder without a core.
        settings: of the new core; those of the backup if None. Its database must be empty, but for what an
            earlier call with the same backup put there that was cut short.
        progress: told of the blobs.

    Returns:
        `events` and `blobs`.

    Raises:
        SettingsError: `source` is no backup, or `root` or the database holds a core already.
        FormatError, HashMismatch: the backup was cut short or altered; nothing is in use yet.
    """
    home, saved = Home(root), Home(source)
    if home.settings.exists():
        raise SettingsError(f"{root} holds a core already", hint="choose another folder")
    settings = settings or load(saved)
    said = _last_line(source / ROWS)
    with files.full_disk(root):
        for folder in (root, home.status.parent, home.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        home.key.parent.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(saved.key.parent.iterdir()):
            files.private_write(home.key.parent / path.name, path.read_bytes(), replace=True)
        blobs = _copy_blobs(source / BLOBS, open_store(home, settings), progress)
        database = open_database(home, settings, create=True)
        try:
            with database.transaction() as connection:
                _read_rows(connection, source / ROWS, said)
            try:
                Consortium(Journal(database), load_key(home))
            except AuthError as e:
                raise SettingsError(
                    f"the key in {source} is not its consortium's", hint="take another backup"
                ) from e
        finally:
            database.close()
        files.write_atomic(home.settings, render(settings).encode())
    return {"events": said["rows"]["events"], "blobs": blobs}


def _copy_blobs(source: Path, store: BlobStore, progress: Progress) -> int:
    saved = BlobStore.open(source)
    listed = list(saved.iterate())
    for number, blob in enumerate(listed):
        progress(number, len(listed))
        store.adopt(saved.path(blob.sha256), blob.sha256)
    progress(len(listed), len(listed))
    return len(listed)


def _claim(home: Home, target: Path) -> None:
    """Make `target` this core's backup folder, with its keys; or find that it is."""
    keys = Home(target).key.parent
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not keys.exists() and any(target.iterdir()):
        raise SettingsError(f"{target} is not empty and holds no backup", hint="choose another folder")
    keys.mkdir(mode=0o700, exist_ok=True)
    known = keys / home.key.name
    if known.exists() and known.read_bytes() != home.key.read_bytes():
        raise SettingsError(f"{target} holds the backup of another core", hint="choose another folder")
    for path in sorted(home.key.parent.iterdir()):
        files.private_write(keys / path.name, path.read_bytes(), replace=True)


# -- rows -----------------------------------------------------------------------------------------


def _write_rows(database: Database, path: Path) -> dict[str, int]:
    temporary = path.with_suffix(".tmp")
    counts: dict[str, int] = {}
    digest = hashlib.sha256()
    with temporary.open("wb") as file, database.reading() as connection:
        for table in kept_tables():
            counts[table.name] = 0
            query = sa.select(table).order_by(*table.primary_key.columns)
            for row in connection.execution_options(yield_per=BATCH).execute(query):
                values = {name: _text(value) for name, value in row._mapping.items()}
                line = canonical.encode({"table": table.name, "row": values}) + b"\n"
                digest.update(line)
                file.write(line)
                counts[table.name] += 1
        file.write(canonical.encode({"rows": counts, "sha256": digest.hexdigest()}) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    files.fsync_dir(path.parent)
    return counts


def _last_line(path: Path) -> dict[str, Any]:
    """What the last line says, once the file is known to be whole and as it was written, and the digest
    of the newest event."""
    digest = hashlib.sha256()
    last: dict[str, Any] = {}
    head: str | None = None
    for line, value in _lines(path):
        if last:
            raise FormatError(f"{path} goes on after its end", hint="take another backup")
        if "rows" in value:
            last = value
        else:
            digest.update(line)
            if value.get("table") == events.name:
                head = value["row"].get("digest")
    if not last or last.get("sha256") != digest.hexdigest():
        raise FormatError(f"{path} was cut short or altered", hint="take another backup")
    return {**last, "head": head}


def _read_rows(connection: sa.Connection, path: Path, said: dict[str, Any]) -> None:
    """Put all rows into empty tables. An earlier call that was cut short may have done so already."""
    there = {
        table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for table in kept_tables()
    }
    newest = sa.select(events.c.digest).order_by(events.c.sequence.desc()).limit(1)
    if there == said["rows"] and connection.execute(newest).scalar() == said["head"]:
        return
    if any(there.values()):
        raise SettingsError("the database holds a core already", hint="restore into an empty one")
    for name, values in itertools.groupby(_lines(path), key=lambda each: each[1].get("table")):
        table = metadata.tables.get(str(name))
        if table is not None:
            rows = (
                {c.name: _value(c, value["row"].get(c.name)) for c in table.columns} for _, value in values
            )
            while batch := list(itertools.islice(rows, BATCH)):
                connection.execute(sa.insert(table), batch)
    regrow(connection)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines as bytes and as JSON objects."""
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise FormatError(f"{path} holds a line that is no object", hint="take another backup")
                yield line, value
    except FileNotFoundError as e:
        raise SettingsError(f"{path.parent} is no backup of a core: it has no {path.name}") from e
    except ValueError as e:
        raise FormatError(f"{path} was cut short or altered", hint="take another backup") from e


def _text(value: Any) -> Any:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes | memoryview) else value


def _value(column: sa.Column[Any], value: Any) -> Any:
    return base64.b64decode(value, validate=True) if isinstance(column.type, sa.LargeBinary) else value
