"""A ledger in a folder that any web server or copy of files can publish: a static mirror.

    checkpoint               the newest head the core has signed: a note
    ledger-00000000.jsonl    entries 1 to 1024, as lines of `audit.file`, with the line that names the format
    ledger-00000001.jsonl    entries 1025 to 2048, and so on; only the last one still grows

A piece may hold more than the checkpoint tells of, torn lines too: a reader takes the checkpoint first and
stops with its last entry. So whoever writes the pieces before the checkpoint leaves nothing half-done. In the
order of names the checkpoint is copied first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tapestry.audit import file
from tapestry.errors import FormatError, InputError
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint

CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = 1024
"""Of a piece that is full."""
MAX_NOTE_BYTES: Final = 1 << 18
Get = Callable[[str], Path]
"""Gives a file of the mirror by its name."""


def name(number: int) -> str:
    """Of a piece, from 0 on."""
    return f"ledger-{number:08}.jsonl"


def is_mirror(folder: Path) -> bool:
    return (folder / CHECKPOINT).is_file() and (folder / name(0)).is_file()


def size_of(note: str) -> int:
    """Entries that a mirror's checkpoint tells of; who signed it is another matter. Raises `FormatError`."""
    return Checkpoint.parse(Note.from_bytes(note.encode()).text).size


def checkpoint(path: Path) -> str:
    """The note in a file. Raises `FormatError` or `InputError`."""
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_NOTE_BYTES + 1)
        if len(data) > MAX_NOTE_BYTES:
            raise FormatError(f"{path} is too long for a checkpoint")
        return data.decode()
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror}", hint="look whether the mirror is there") from e
    except UnicodeDecodeError as e:
        raise FormatError(f"{path} holds no checkpoint") from e


def read(get: Get, *, note: str | None = None) -> Iterator[file.Line]:
    """The lines of a ledger, its checkpoint last; one piece is asked for at a time.

    Args:
        get: gives the files.
        note: the checkpoint up to which it is read, where that was taken before.

    Raises:
        FormatError: the mirror is none, or lacks entries that its checkpoint tells of.
        InputError: a file cannot be read.
    """
    note = checkpoint(get(CHECKPOINT)) if note is None else note
    size, done = size_of(note), 0
    while done < size:
        number = done // ENTRIES
        until = min(size, (number + 1) * ENTRIES)
        for line in file.read(get(name(number))):
            yield line
            done += line[0] == "entry"
            if done == until:
                break
        if done < until:
            raise FormatError(f"{name(number)} of the mirror ends with entry {done}, not {until}")
    yield "checkpoint", note
