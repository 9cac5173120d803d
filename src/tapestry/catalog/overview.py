"""Many datasets at a glance: rows of tables, a search, and what there is of each language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tapestry.catalog.card import Card
from tapestry.catalog.listing import CatalogEntry, Shown
from tapestry.catalog.words import STAGES


@dataclass(frozen=True, kw_only=True)
class Row:
    """A dataset, as far as it may be known. None and () stand for what is not shown."""

    name: str
    member: str | None = None
    owner: str | None = None
    description: str | None = None
    languages: tuple[str, ...] = ()
    domain: str | None = None
    licence: str | None = None
    category: str | None = None
    stages: tuple[str, ...] = ()
    residency: tuple[str, ...] = ()
    consent_until: str | None = None
    documents: int | None = None
    bytes: int | None = None
    tokens: int | None = None
    root: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of_card(card: Card) -> Row:
    """Of one's own card, nothing left out."""
    return Row(
        name=card.name,
        owner=card.owner,
        description=card.description,
        languages=card.languages,
        domain=card.domain,
        licence=card.licence,
        category=card.category,
        stages=card.stages,
        residency=card.residency,
        consent_until=card.consent_until,
        documents=card.content.documents,
        bytes=card.content.bytes,
        tokens=card.content.tokens,
        root=card.content.root,
    )


def of_entry(entry: CatalogEntry) -> Row | None:
    """Of what a member published; None where it was taken back."""
    return None if entry.card is None else of_card_shown(entry.member, entry.dataset, entry.card)


def of_card_shown(member: str, dataset: str, card: Shown) -> Row:
    """Of what is shown of a card."""
    return Row(
        name=dataset,
        member=member,
        owner=card.owner,
        description=card.description,
        languages=card.languages or (),
        domain=card.domain,
        licence=card.licence,
        category=card.category,
        stages=card.stages or (),
        residency=card.residency or (),
        consent_until=card.consent_until,
        documents=card.documents,
        bytes=card.bytes,
        tokens=card.tokens,
        root=card.root,
    )


def search(rows: Iterable[Row], words: Sequence[str]) -> list[Row]:
    """Those in which every word occurs, in whatever field; case does not matter."""
    wanted = [word.casefold() for word in words]
    return [row for row in rows if all(word in _text(row) for word in wanted)]


def _text(row: Row) -> str:
    lists = (*row.languages, *row.stages, *row.residency)
    fields = (
        row.name,
        row.member,
        row.owner,
        row.description,
        row.domain,
        row.licence,
        row.category,
        row.root,
    )
    return "\n".join(each for each in (*fields, *lists) if each).casefold()


@dataclass(kw_only=True)
class OfLanguage:
    """What there is of a language.

    Args:
        datasets: that hold it.
        documents, bytes, tokens: of the datasets in this language alone.
        mixed_bytes: of those that also hold others, which nobody has told apart.
        unstated: datasets whose size is not shown.
        missing: stages that no dataset with this language permits.
    """

    language: str
    datasets: int = 0
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    mixed_bytes: int = 0
    unstated: int = 0
    missing: tuple[str, ...] = STAGES
    _permitted: set[str] = field(default_factory=set, repr=False)

    def take(self, row: Row) -> None:
        self.datasets += 1
        if row.bytes is None or row.documents is None or row.tokens is None:
            self.unstated += 1
        elif len(row.languages) > 1:
            self.mixed_bytes += row.bytes
        else:
            self.documents += row.documents
            self.bytes += row.bytes
            self.tokens += row.tokens
        self._permitted.update(row.stages)
        self.missing = tuple(stage for stage in STAGES if stage not in self._permitted)

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if not key.startswith("_")}


def coverage(rows: Iterable[Row], wanted: Sequence[str] = ()) -> list[OfLanguage]:
    """By language, most bytes first; a language that is wanted and that no dataset has comes last, with none.

    A tag counts for itself: `de-CH` is not `de`.
    """
    found = {language: OfLanguage(language=language) for language in wanted}
    for row in rows:
        for language in row.languages:
            found.setdefault(language, OfLanguage(language=language)).take(row)
    return sorted(
        found.values(), key=lambda each: (-each.bytes - each.mixed_bytes, -each.datasets, each.language)
    )
