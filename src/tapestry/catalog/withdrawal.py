"""A dataset that was withdrawn: what its owner says of it, and what is no longer to be used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from tapestry.catalog.card import Card
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message
from tapestry.protocol.messages import Time


class Withdrawn(Message):
    """The mark of one dataset. It stays, as the card does: both are evidence."""

    format: Literal["tapestry.withdrawn"] = "tapestry.withdrawn"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 1 << 20

    dataset: Name
    at: Time
    """By this machine's clock."""
    reason: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    roots: Annotated[tuple[Sha256, ...], Field(max_length=10_000)] = ()
    """Content hashes of all its revisions: the same documents are refused under another name, too."""

    def covers(self, name: str, root: str) -> bool:
        """Whether a dataset is this one, by its name or by its documents."""
        return name == self.dataset or root in self.roots


def datasets_of(manifest: bytes) -> list[tuple[str, str]]:
    """Name and content hash of each dataset that a data manifest names; none for one that is none, or of
    the first version, which had no cards."""
    try:
        cards = json.loads(manifest).get("cards", [])
        return [(str(card["name"]), str(card["root"])) for card in cards]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def is_withdrawn(card: Card, marks: Iterable[Withdrawn]) -> bool:
    return any(mark.covers(card.name, card.content.root) for mark in marks)
