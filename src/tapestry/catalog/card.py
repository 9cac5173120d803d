"""A dataset card as values. How it is written is `catalog.croissant`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from tapestry.catalog import licences
from tapestry.catalog.lineage import Lineage
from tapestry.catalog.words import (
    Basis,
    Category,
    Count,
    Countries,
    Day,
    Label,
    Languages,
    Level,
    Licence,
    Owner,
    Prose,
    Stages,
)
from tapestry.errors import CardError, FormatError
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Sha256
from tapestry.protocol.message import Part, explain

MAX_FILES: Final = 100_000
BYTES: Final = "bytes"
"""The tokenizer of a card: a token for each byte, and one for the end of each document."""

SHOWN: Final[dict[str, Level]] = {
    "description": "private",
    "owner": "consortium",
    "languages": "public",
    "domain": "public",
    "licence": "public",
    "made": "consortium",
    "revision": "consortium",
    "provenance": "private",
    "consent_basis": "private",
    "consent_until": "consortium",
    "residency": "consortium",
    "category": "public",
    "stages": "public",
    "retention": "consortium",
    "documents": "consortium",
    "bytes": "consortium",
    "tokens": "consortium",
    "root": "consortium",
}
"""Who may know a field, unless the card says otherwise. The name is public; what is not here is private."""


class File(Part):
    """A file of a dataset, as it lies on the disk."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Below the dataset's folder, with forward slashes."""
    split: Literal["train", "valid"]
    bytes: Count
    documents: Count
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path:
            raise ValueError("leads out of the dataset's folder")
        return path


class Content(Part):
    """What a dataset holds; see "What is hashed" in docs/formats/cards.md."""

    documents: Count
    bytes: Count
    """Of UTF-8 text."""
    tokens: Count
    tokenizer: Literal["bytes"] = "bytes"
    root: Sha256
    """Of the RFC 9162 tree over the documents."""


class Card(Part):
    """What a dataset is, and what may be done with it."""

    name: Label
    description: Prose
    owner: Owner
    languages: Languages
    domain: Label = "general"
    licence: Licence
    made: Day
    revision: Annotated[int, Field(ge=1, le=1 << 31)] = 1
    provenance: Prose = ""
    consent_basis: Basis | None = None
    consent_until: Day | None = None
    residency: Countries
    category: Category
    stages: Stages
    retention: Day | None = None
    content: Content
    files: Annotated[tuple[File, ...], Field(max_length=MAX_FILES)]
    folder: Annotated[str, StringConstraints(max_length=4096)] = ""
    visibility: dict[str, Level] = Field(default_factory=dict)
    lineage: Annotated[Lineage | None, Field(exclude_if=lambda value: value is None)] = None
    """How it came to be out of other text; None where nobody says."""

    @field_validator("licence")
    @classmethod
    def _listed(cls, text: str) -> str:
        return licences.parse(text).text

    @field_validator("visibility")
    @classmethod
    def _known(cls, given: dict[str, Level]) -> dict[str, Level]:
        if unknown := sorted(set(given) - set(SHOWN)):
            raise ValueError(f"{unknown[0][:40]!r} is no field with a visibility")
        return given

    @model_validator(mode="after")
    def _adds_up(self) -> Card:
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("files: names a path twice")
        if sum(file.documents for file in self.files) != self.content.documents:
            raise ValueError("documents: not the sum of those of the files")
        if self.lineage is not None and self.lineage.result.root != self.content.root:
            raise ValueError("lineage: ends in other text than this")
        return self

    def level(self, field: str) -> Level:
        """Who may know a field."""
        return self.visibility.get(field, SHOWN.get(field, "private"))

    def value(self, field: str) -> Any:
        """Of a field of `SHOWN`."""
        return getattr(self.content if field in Content.model_fields else self, field)


def make(values: dict[str, Any], where: str) -> Card:
    """A card of JSON values. Raises `CardError` naming the field."""
    try:
        data = canonical.encode(values)
    except FormatError as e:
        raise CardError(f"{where}: {e.message}", hint="are all file names UTF-8?") from e
    try:
        return Card.model_validate_json(data)
    except ValidationError as e:
        said = explain(e).replace("Value error, ", "")
        field = said.partition(":")[0].partition(".")[0]
        raise CardError(f"{where}: {said}", hint=_HINTS.get(field, "see docs/formats/cards.md")) from e


_HINTS: Final = {
    "licence": "take a name of the SPDX list, like CC-BY-4.0, or LicenseRef-NAME for terms of your own",
    "residency": "take the two letters of ISO 3166-1 of each country in which it may be processed, like CH",
    "languages": "take a tag of BCP 47, like de, pt-BR or zh-Hant",
    "category": "one of open, unique-open, controlled, sovereign, private",
    "stages": "of base, contributed-cpt, private-cpt, sft, preference, evaluation",
    "consent_until": "write the last day as YYYY-MM-DD",
    "retention": "write the last day as YYYY-MM-DD",
    "name": "use a-z, 0-9, '.', '_' and '-', at most 64, beginning and ending with a letter or digit",
}
