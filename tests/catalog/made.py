"""A card as the tests of the catalog need it."""

from __future__ import annotations

from typing import Any

from tapestry.catalog import card as cards
from tapestry.catalog.card import Card
from tapestry.catalog.content import Tally

TEXTS = ("Das Maß ist voll.", "Чашка чая", "日本語のテキスト")


def values(**changed: Any) -> dict[str, Any]:
    """Of a card that may enter `base` at a node in CH."""
    tally = Tally()
    for text in TEXTS:
        tally.take([text])
    return {
        "name": "letters",
        "description": "Letters from the archive.",
        "owner": "Acme Archive",
        "languages": ["de", "ru", "ja"],
        "domain": "letters",
        "licence": "CC-BY-4.0",
        "made": "2026-11-22",
        "provenance": "Scanned and corrected by hand.",
        "consent_basis": "contract 17",
        "consent_until": "2027-12-31",
        "residency": ["CH", "LI"],
        "category": "open",
        "stages": ["base", "evaluation"],
        "retention": "2030-01-01",
        "content": tally.content().model_dump(),
        "files": [
            {"path": "train.jsonl", "split": "train", "bytes": 99, "documents": 2, "sha256": "1" * 64},
            {"path": "valid/a b.txt", "split": "valid", "bytes": 50, "documents": 1, "sha256": "2" * 64},
        ],
        "folder": "/srv/text/letters",
        "visibility": {"root": "private"},
        **changed,
    }


def card(**changed: Any) -> Card:
    return cards.make(values(**changed), "letters.json")
