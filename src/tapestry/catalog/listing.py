"""What a member publishes of a dataset: a closed schema, in which no file, path or unknown field can be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, StringConstraints

from tapestry.catalog.card import SHOWN, Card
from tapestry.catalog.words import (
    Basis,
    Category,
    Count,
    Countries,
    Day,
    Label,
    Languages,
    Owner,
    Prose,
    Stages,
)
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

MAX_LISTED: Final = 10_000
"""Datasets that a core lists."""
MAX_AHEAD_S: Final = 300.0
"""An entry may be of a time so far ahead of the core's."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")]


class Shown(Part):
    """The fields of a card that its owner shows to the consortium; None where one is private or absent."""

    description: Prose | None
    owner: Owner | None
    languages: Languages | None
    domain: Label | None
    licence: Annotated[str, StringConstraints(max_length=200, pattern=r"^[A-Za-z0-9 .+()-]+$")] | None
    made: Day | None
    revision: Annotated[int, Field(ge=1, le=1 << 31)] | None
    provenance: Prose | None
    consent_basis: Basis | None
    consent_until: Day | None
    residency: Countries | None
    category: Category | None
    stages: Stages | None
    retention: Day | None
    documents: Count | None
    bytes: Count | None
    tokens: Count | None
    root: Sha256 | None


class CatalogEntry(Message):
    """A member's word about one of its datasets; signed by a node key."""

    MAX_BYTES: ClassVar[int] = 1 << 16

    format: Literal["tapestry.catalog-entry"] = "tapestry.catalog-entry"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    node: Name
    dataset: Label
    at: Time
    """The core's time as the node knows it; an older one never takes the place of a newer."""
    card: Shown | None
    """None takes it back."""
    public: Annotated[tuple[FieldName, ...], Field(max_length=len(SHOWN))]
    """Fields of `card` that others than the consortium may see, too."""


def shown(card: Card) -> tuple[Shown, tuple[str, ...]]:
    """What the consortium may see of a card, and which of that is public."""
    values = {field: card.value(field) if card.level(field) != "private" else None for field in SHOWN}
    public = sorted(field for field in SHOWN if card.level(field) == "public")
    return Shown(**values), tuple(public)
