"""A base as a lineage names it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from tapestry.errors import ModelError
from tapestry.host import files
from tapestry.protocol.canonical import is_name
from tapestry.sovereign.directory import weights_digest
from tapestry.sovereign.lineage import Base
from tapestry.training.model import TOKENIZER
from tapestry.training.tokenizer import MAX_TOKENIZER_BYTES

_MAX_CARD: Final = 4 << 20


def describe(folder: Path) -> Base:
    """What a base says of itself: weights and tokenizer by its files, the rest by its card.

    Raises:
        ModelError: no model's directory.
    """
    try:
        words = files.read_limited(folder / TOKENIZER, MAX_TOKENIZER_BYTES)
    except OSError as e:
        raise ModelError(f"{folder} has no {TOKENIZER}", hint="give the directory of a model") from e
    try:
        card = files.read_limited(folder / "README.md", _MAX_CARD).decode("utf-8", "replace")
    except OSError:
        card = ""
    run, merges = _cell(card, "run"), _cell(card, "round")
    state = _cell(card, r"state \(SHA-256\)")
    head = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    licence = re.search(r"^license:[ \t]*[\"']?([^\s\"'#]+)", head[1], re.MULTILINE) if head else None
    return Base(
        weights=weights_digest(folder),
        tokenizer=hashlib.sha256(words).hexdigest(),
        licence=licence[1][:200] if licence else "unknown",
        state=state if state and re.fullmatch(r"[0-9a-f]{64}", state) else None,
        run=run if run and is_name(run) else None,
        round=int(merges) if merges and re.fullmatch(r"\d{1,15}", merges) else None,
    )


def _cell(card: str, name: str) -> str | None:
    """Of the table in a card that Tapestry wrote."""
    found = re.search(rf"^\| {name} \| `?([^|`\n]+?)`? \|$", card, re.MULTILINE)
    return found[1].strip() if found else None
