"""A card and what is published of it, frozen in card.json. `TAPESTRY_REWRITE_GOLDEN=1` writes them anew:
other bytes mean that cards in members' hands are read in another way; docs/formats/cards.md must say so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tapestry.catalog.croissant import CardFile
from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.protocol import canonical
from tests.catalog.made import card

FILE = Path(__file__).with_name("card.json")


def made() -> dict[str, Any]:
    one = card()
    what, public = shown(one)
    entry = CatalogEntry(
        consortium="0" * 64,
        member="acme",
        node="acme-1",
        dataset=one.name,
        at="2026-11-22T00:00:00.000Z",
        card=what,
        public=public,
    )
    file = CardFile(card=one)
    return {"card": file.document(), "card_digest": file.digest, "entry": json.loads(entry.to_bytes())}


def test_a_card_is_written_and_read_as_ever() -> None:
    if os.environ.get("TAPESTRY_REWRITE_GOLDEN"):
        FILE.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n")
        return
    kept = json.loads(FILE.read_text())
    assert made() == kept, "cards are written in another way"
    read = CardFile.from_bytes(json.dumps(kept["card"]).encode(), "card.json")
    assert (read.card, read.digest) == (card(), kept["card_digest"]), (
        "a card of before is read in another way"
    )
    entry = CatalogEntry.from_bytes(canonical.encode(kept["entry"]))
    assert entry.card is not None and entry.card.root is None
