"""Canaries: marked lines that an owner adds to its text, so that whatever leaves can be searched for them.

All canaries of a node begin with one random marker, so a search looks for a dozen byte patterns, however
many were planted. The marker lies in `canaries.json` in the node's home, which only its owner may read and
which is not among the files of the agent. Whoever has it can take the canaries out: keep it from strangers.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from tapestry.errors import InputError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.node.home import Home
from tapestry.protocol.message import Message

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
MARKER_LETTERS: Final = 20
"""Random lower-case letters, 94 bits: no data has them by chance. In base64 they give no `+`, `/` or padding,
in JSON and in a URL they stand as they are."""
WORD_LETTERS: Final = 16
WORD_ALPHABET: Final = "0123456789abcdef"
"""Of the word that only one canary has."""
MAX_CANARIES: Final = 100_000_000
MIN_IDS: Final = 4
"""Fewer token ids than this could stand anywhere."""


class Canaries(Message):
    """What was planted."""

    format: Literal["tapestry.canaries"] = "tapestry.canaries"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 4 << 10

    marker: Annotated[str, StringConstraints(pattern=rf"^[a-z]{{{MARKER_LETTERS}}}$")]
    planted: Annotated[int, Field(ge=0, le=MAX_CANARIES)]

    def text(self, number: int) -> str:
        """One canary: the marker, which of them it is, and a word that only it has."""
        return "".join(self.parts(number))

    def parts(self, number: int) -> tuple[str, str]:
        """What could be guessed of a canary by who knows the marker, and the word that could not."""
        own = sha256(f"{self.marker}{number}".encode()).hexdigest()[:WORD_LETTERS]
        return f"{self.marker}{number:08d} ", own


def load(home: Home) -> Canaries | None:
    """What was planted at this node; None where nothing was.

    Raises:
        SettingsError: the file is damaged or too open. Without it nothing could be searched for.
    """
    path = home.canaries
    try:
        mode = path.stat().st_mode
        data = files.read_limited(path, Canaries.MAX_BYTES)
        if mode & 0o077:
            raise SettingsError(f"others may read {path}", hint=f"close it: chmod 600 {path}")
        return Canaries.from_bytes(data)
    except FileNotFoundError:
        return None
    except SettingsError:
        raise
    except (OSError, TapestryError) as e:
        raise SettingsError(
            f"{path} cannot be read, so nothing that leaves can be searched for canaries",
            hint="restore it from a copy; without it lines that were planted before are not found",
        ) from e


def plant(home: Home, count: int, out: Path) -> Canaries:
    """Write so many new canaries to a file that is not there yet, one line each; JSON lines or plain text by
    the file's ending. The marker is kept before anything is written with it.

    Raises:
        InputError: the file is there, has another ending, or there are too many canaries.
        DiskFull: no space; those of a cut file count as planted.
    """
    home.check()
    if out.suffix not in (".txt", ".jsonl"):
        raise InputError(f"{out.name} is neither .txt nor .jsonl", hint="name it train-canaries.jsonl")
    if out.exists():
        raise InputError(f"{out} exists", hint="give another name; canaries planted before stay valid")
    before = load(home) or Canaries(marker=_marker(), planted=0)
    if not 1 <= count <= MAX_CANARIES - before.planted:
        raise InputError(f"{count} canaries cannot be planted: at least 1, and {MAX_CANARIES} in all")
    after = before.model_copy(update={"planted": before.planted + count})
    files.write_atomic(home.canaries, after.to_bytes(), mode=0o600)
    texts = (after.text(number) for number in range(before.planted, after.planted))
    with files.full_disk(out), out.open("x", encoding="utf-8") as file:
        for text in texts:
            file.write((json.dumps({"text": text}) if out.suffix == ".jsonl" else text) + "\n")
    return after


def _marker() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(MARKER_LETTERS))


def patterns(marker: str, ids: Sequence[int] = ()) -> tuple[tuple[str, bytes], ...]:
    """The marker in every encoding that is searched, by the encoding's name.

    Args:
        ids: of the marker's inner tokens in a tokenizer; those of its bytes are always among the patterns,
            where they are the same as UTF-8, 16 and 32.
    """
    text = marker.encode("ascii")
    found = {
        "utf-8": text,
        "utf-8 in capitals": text.upper(),
        # Without zeros around: the same in both orders.
        "utf-16": marker.encode("utf-16-le").rstrip(b"\0"),
        "utf-32": marker.encode("utf-32-le").rstrip(b"\0"),
        "hex": text.hex().encode(),
        "hex in capitals": text.hex().upper().encode(),
    }
    found |= {f"base64, {shift} bytes on": each for shift, each in enumerate(_base64(text))}
    found |= dict(_ids("bytes", text))
    if len(ids) >= MIN_IDS:
        found |= dict(_ids("tokens", ids))
    once = {pattern: name for name, pattern in reversed(list(found.items()))}
    return tuple((name, pattern) for pattern, name in reversed(list(once.items())))


def _base64(text: bytes) -> Iterator[bytes]:
    """What stands for the text wherever it begins: without the letters it shares with its neighbours."""
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + text)
        yield encoded[-(-shift * 4 // 3) : (shift + len(text)) * 4 // 3]


def _ids(what: str, ids: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """As little-endian integers of each width that holds them, and as decimals in a list."""
    for width in (1, 2, 4, 8):
        if max(ids) < 1 << 8 * width:
            # Without trailing zeros, from whose last byte a search would have to begin again and again.
            packed = b"".join(number.to_bytes(width, "little") for number in ids).rstrip(b"\0")
            yield f"ids of {what}, {8 * width} bits", packed
    for comma in (", ", ",", " "):
        yield f"ids of {what} in digits, {comma!r} between", comma.join(map(str, ids)).encode()
