"""What lies in a node's home of the consortium's ledger, for whoever reads it beside the agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.errors import FormatError, InputError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.ledger.tree import HASH_BYTES
from tapestry.node.home import Home
from tapestry.protocol.message import Message

LOST: Final = "move the folder away: the node then verifies it anew, and has forgotten what it saw before"


class Verified(Message):
    """`ledger/verified.json`"""

    format: Literal["tapestry.verified"] = "tapestry.verified"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 256 << 20

    entries: int
    bytes: int
    """Of ledger.jsonl."""
    checkpoint: str
    """The newest the core has signed, over these entries."""
    verifier: dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A node's copy of the ledger: how much of a file holds, and what the core has signed of it."""

    path: Path
    verified: Verified

    @classmethod
    def of(cls, home: Home) -> Kept:
        """Raises `SettingsError` for no node, `InputError` for no ledger."""
        home.check()
        path = home.ledger / "verified.json"
        try:
            found = Verified.from_bytes(files.read_limited(path, Verified.MAX_BYTES))
        except FileNotFoundError as e:
            raise InputError(f"the node in {home.root} holds no ledger yet", hint="name other nodes") from e
        return cls(home.ledger / "ledger.jsonl", found)

    @property
    def size(self) -> int:
        """Bytes of the file that hold."""
        return self.verified.bytes

    @property
    def checkpoint(self) -> str:
        return self.verified.checkpoint

    def lines(self) -> Iterator[file.Line]:
        """All of it, its checkpoint last."""
        yield from file.read(self.path, self.size)
        yield "checkpoint", self.checkpoint

    def verifier(self) -> Verifier:
        """To go on from here, in memory. Raises `SettingsError`."""
        try:
            return restored(self.path.parent, self.verified)
        except (OSError, TapestryError) as e:
            raise SettingsError(f"the ledger in {self.path.parent} cannot be read: {e}", hint=LOST) from e


def restored(folder: Path, found: Verified) -> Verifier:
    """Where the verification of the ledger in a folder stands. Raises `OSError`, `FormatError`."""
    verifier = Verifier()
    verifier.restore(found.verifier, _read(folder / "roots", found.entries * HASH_BYTES))
    return verifier


def _read(path: Path, size: int) -> bytes:
    with path.open("rb") as handle:
        if len(data := handle.read(size)) == size:
            return data
    raise FormatError(f"{path.name} is shorter than it was")
