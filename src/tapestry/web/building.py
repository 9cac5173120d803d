"""What a node's owner is shown of its own node. It is read from the node's files, by the command line, which
may know how they lie; nothing of it ever goes through a core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["netns", "process", "site", "none"]


@dataclass(frozen=True, kw_only=True)
class Left:
    """A line of the egress log, or a count of small messages."""

    time: float
    kind: str
    name: str | None
    count: int
    bytes: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What leaves when its owner says so."""

    name: str
    since: float
    artifacts: int
    bytes: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class CardInUse:
    """A dataset of the node's, by its card; `withdrawn` once it may not be used any more."""

    name: str
    category: str
    languages: tuple[str, ...]
    licence: str
    documents: int
    bytes: int
    stages: tuple[str, ...]
    withdrawn: bool


@dataclass(frozen=True, kw_only=True)
class Building:
    """One node, at one moment.

    Args:
        home: its folder, as it is to be given to a command.
        running: whether its processes are.
        level: how far text and network are apart, as measured; None while it does not run.
        publish: how much of what is measured leaves, as its settings say.
        approve: whether its owner is asked for each update.
        left: everything that left, newest first.
        waiting: oldest first.
        passed, refused: by the gate, since it started.
        last_refused: why, of the newest that the gate refused.
        canaries: how many the gate searches for.
        cards: of its datasets; `cards_trouble` where they cannot be read.
        trouble: what keeps it from its work.
    """

    home: str
    member: str
    node: str
    running: bool
    level: Level | None
    publish: str
    approve: bool
    left: tuple[Left, ...]
    waiting: tuple[Waiting, ...]
    passed: int
    refused: int
    last_refused: str | None
    canaries: int
    cards: tuple[CardInUse, ...]
    cards_trouble: str | None = None
    trouble: str | None = None

    @property
    def left_bytes(self) -> int:
        return sum(each.bytes for each in self.left)
