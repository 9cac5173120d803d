"""The owner's own word on what leaves, where `node.toml` asks for it.

    approvals/pending/<run>.<round>.json     gate: this is ready to leave, artifact by artifact
    approvals/decided/<run>.<round>.json     owner: let it pass, or not; holds for these very bytes alone

The agent has no way into the folder.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import Field, StringConstraints

from tapestry.errors import Conflict, NotFound, TapestryError
from tapestry.host import files
from tapestry.node.home import Home
from tapestry.protocol.canonical import Sha256, encode, sha256
from tapestry.protocol.message import Message, Part

M = TypeVar("M", bound=Message)
MAX_REASON: Final = 200


class Leaving(Part):
    """One artifact, as the egress log will name it."""

    kind: str
    name: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Pending(Message):
    """What would leave."""

    format: Literal["tapestry.pending"] = "tapestry.pending"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    name: str
    """<run>.<round>"""
    since: float
    artifacts: tuple[Leaving, ...]

    @property
    def subject(self) -> str:
        """Digest of what leaves, whenever it was asked for."""
        return subject([each.model_dump() for each in self.artifacts])


class Decision(Message):
    """The owner's word."""

    format: Literal["tapestry.decision"] = "tapestry.decision"
    version: Literal[1] = 1

    name: str
    subject: Sha256
    passes: bool
    reason: Annotated[str, StringConstraints(max_length=MAX_REASON)] = ""


def subject(lines: Sequence[dict[str, Any]]) -> str:
    """Digest of what the egress log will say."""
    return sha256(encode(list(lines)))


class Approvals:
    """Of one home; used by the gate and by the command line."""

    def __init__(self, home: Home) -> None:
        self._pending = home.approvals / "pending"
        self._decided = home.approvals / "decided"

    def decided(self, name: str, lines: Sequence[dict[str, Any]]) -> Decision | None:
        """The owner's word on exactly these artifacts; where there is none, they are put before the owner."""
        found = self._read(self._decided / f"{name}.json", Decision)
        if found is not None and found.subject == subject(lines):
            (self._pending / f"{name}.json").unlink(missing_ok=True)
            return found
        waiting = self._read(self._pending / f"{name}.json", Pending)
        if waiting is None or waiting.subject != subject(lines):
            asked = Pending(
                name=name, since=round(time.time(), 3), artifacts=tuple(Leaving(**line) for line in lines)
            )
            files.write_atomic(self._pending / f"{name}.json", asked.to_bytes())
        return None

    def stirred(self, name: str) -> bool:
        """Whether the owner has said something; cheap."""
        return (self._decided / f"{name}.json").exists()

    def pending(self) -> list[Pending]:
        """What waits, oldest first."""
        found = (self._read(path, Pending) for path in self._pending.glob("*.json"))
        return sorted((each for each in found if each is not None), key=lambda each: each.since)

    def decide(self, name: str, *, passes: bool, reason: str = "") -> Pending:
        """The owner's word on what waits under a name.

        Raises:
            NotFound: nothing of that name waits.
            Conflict: the reason is too long.
        """
        waiting = self._read(self._pending / f"{name}.json", Pending)
        if waiting is None:
            raise NotFound(
                f"nothing called {name[:80]} waits", hint="see what does: tapestry node egress pending HOME"
            )
        if len(reason) > MAX_REASON:
            raise Conflict(f"a reason has at most {MAX_REASON} characters, not {len(reason)}")
        said = Decision(name=name, subject=waiting.subject, passes=passes, reason=reason)
        files.write_atomic(self._decided / f"{name}.json", said.to_bytes())
        (self._pending / f"{name}.json").unlink(missing_ok=True)
        return waiting

    @staticmethod
    def _read(path: Path, kind: type[M]) -> M | None:
        try:
            return kind.from_bytes(files.read_limited(path, kind.MAX_BYTES))
        except (FileNotFoundError, TapestryError):
            return None
