"""A card for the text of a node in a test, without which nothing would be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tapestry.catalog.croissant import CardFile
from tapestry.training.holding import hold
from tapestry.training.shelf import Shelf

HERE: Final = "CH"
"""Where nodes of tests stand."""


def give_card(home: Path, corpus: Path, *, replace: bool = False, **described: Any) -> CardFile:
    """Make a card that lets a corpus into a base, in the home of a node; `described` are fields of it."""
    fields = {
        "name": "text", "description": "Text of a test.", "owner": "acme", "languages": ["en"],
        "licence": "CC0-1.0", "made": "2026-11-22", "residency": [HERE], "category": "open",
        "stages": ["base"],
    }  # fmt: skip
    return Shelf.of_node(home).put(hold(corpus).values(corpus, **fields | described), replace=replace)
