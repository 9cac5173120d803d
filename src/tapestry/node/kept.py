"""What lies in a node's home of the consortium's ledger, for whoever reads it beside the agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.errors import InputError, SettingsError, TapestryError
from tapestry.host import files
from tapestry.node.home import Home
from tapestry.node.replica import LOST, Verified, restored


@dataclass(frozen=True)
class Kept:
    """A node's copy of the ledger: `size` bytes of a file hold, and what the core has signed of them."""

    path: Path
    size: int
    checkpoint: str
    verified: Verified = field(repr=False)

    @classmethod
    def of(cls, home: Home) -> Kept:
        """Raises `SettingsError` for no node, `InputError` for no ledger."""
        home.check()
        path = home.ledger / "verified.json"
        try:
            found = Verified.from_bytes(files.read_limited(path, Verified.MAX_BYTES))
        except FileNotFoundError as e:
            raise InputError(f"the node in {home.root} holds no ledger yet", hint="name other nodes") from e
        return cls(home.ledger / "ledger.jsonl", found.bytes, found.checkpoint, found)

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
