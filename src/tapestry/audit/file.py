"""A ledger in one file: JSON lines, each canonical.

    {"format": "tapestry.ledger", "version": 1}
    {"blob": "base64"}          an envelope; before the entry that names its hash
    {"entry": {...}}            the entries, from the first on
    {"checkpoint": "..."}       last: the core's signed note over all of them

What it holds is small: hashes, rules, envelopes, and no weights.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from tapestry.errors import FormatError, InputError
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical

FORMAT: Final = "tapestry.ledger"
VERSION: Final = 1
MAX_LINE_BYTES: Final = 96 << 20

NAMED: Final = {
    "contribution-received": "contribution",
    "contribution-committed": "contribution",
    "contribution-late": "contribution",
    "node-enrolled": "enrolment",
    "base-attested": "attestation",
    "score-published": "score",
}
"""Entries that name an envelope, and in which field."""

Line = tuple[str, Any]
"""What a line is (`blob`, `entry`, `checkpoint`), and its value: bytes, an `Entry`, a text."""


ENTRY, BLOB = b'{"entry":', b'{"blob":"'
"""How a line begins."""
FIRST: Final = canonical.encode({"format": FORMAT, "version": VERSION}) + b"\n"
"""Names the format."""


def encode(line: Line) -> bytes:
    """A line as it stands in the file."""
    kind, value = line
    if kind == "checkpoint":
        return canonical.encode({kind: value}) + b"\n"
    return of_bytes(kind, value.to_bytes() if kind == "entry" else value)


def of_bytes(kind: str, data: bytes) -> bytes:
    """The line of a blob, or of an entry in its canonical bytes."""
    if kind == "entry":
        return ENTRY + data + b"}\n"
    return BLOB + base64.b64encode(data) + b'"}\n'


def write(out: BinaryIO, lines: Iterable[Line]) -> None:
    """Write lines, after the first one that names the format."""
    out.write(FIRST)
    for line in lines:
        out.write(encode(line))


def parse(data: bytes) -> Iterator[Line]:
    """Lines without the first one, from memory. Raises `FormatError`."""
    if data and not data.endswith(b"\n"):
        raise FormatError("the last line of the ledger was cut off")
    for line in data.split(b"\n")[:-1]:
        found = _parsed(line, first=False)
        if found is not None:
            yield found


def read(path: Path, size: int | None = None) -> Iterator[Line]:
    """The lines of a file, one in memory at a time; of its first `size` bytes, where that is given.

    Raises:
        InputError: it cannot be read.
        FormatError: it is none, with the number of the line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file, size), start=1):
                try:
                    found = _parsed(line, first=number == 1)
                except FormatError as e:
                    raise FormatError(f"{path}, line {number}: {e.message}", hint=e.hint) from e
                if found is not None:
                    yield found
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror}", hint="give a file of tapestry ledger export"
        ) from e


def _lines(file: BinaryIO, size: int | None) -> Iterator[bytes]:
    while (size is None or file.tell() < size) and (line := file.readline(MAX_LINE_BYTES + 1)):
        if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            raise FormatError("the file was cut off, or holds a line that is too long")
        yield line[:-1]


def _parsed(line: bytes, *, first: bool) -> Line | None:
    if line.startswith(ENTRY) and not first:
        return "entry", _entry(line)
    if line.startswith(BLOB) and not first and (data := _blob(line)) is not None:
        return "blob", data
    value = canonical.decode(line, what="line", max_bytes=MAX_LINE_BYTES)
    if first:
        if value != {"format": FORMAT, "version": VERSION}:
            raise FormatError("this is no ledger of this release", hint="write one: tapestry ledger export")
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise FormatError("a line has one field: blob, entry or checkpoint")
    ((kind, held),) = value.items()
    if kind not in ("blob", "checkpoint") or not isinstance(held, str):
        raise FormatError("a line has one field: blob, entry or checkpoint")
    if kind == "checkpoint":
        return kind, held
    try:
        data = base64.b64decode(held, validate=True)
    except ValueError as e:  # binascii.Error, or a character that is not ASCII
        raise FormatError("a blob is base64") from e
    if base64.b64encode(data).decode("ascii") != held:
        raise FormatError("a blob is base64 in its one form")
    return kind, data


def _blob(line: bytes) -> bytes | None:
    """Of a line that is the one form of a blob's; what is wrong with another is for others to find."""
    try:
        data = base64.b64decode(line[len(BLOB) : -2], validate=True)
    except ValueError:
        return None
    return data if of_bytes("blob", data)[:-1] == line else None


def _entry(line: bytes) -> Entry:
    """Of a line that begins as one; the line is canonical if it is this entry's."""
    canonical.check_limits(line, what="line", max_bytes=MAX_LINE_BYTES)
    entry = Entry.exact(line[len(ENTRY) : -1]) if line.endswith(b"}") else None
    if entry is not None:
        return entry
    value = canonical.decode(line, what="line", max_bytes=MAX_LINE_BYTES)
    if len(value) != 1:
        raise FormatError("a line has one field: blob, entry or checkpoint")
    Entry.from_json(value["entry"])
    raise FormatError("the entry leaves out fields that its canonical form states")
