"""What `tapestry catalog` prints, for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.cli.output import emit_json, emit_table, human_bytes, note, short

if TYPE_CHECKING:
    from tapestry.catalog.card import Card
    from tapestry.catalog.overview import Row


def facts(card: Card) -> dict[str, Any]:
    """A card without its list of files."""
    found = card.model_dump(mode="json", exclude={"files", "content", "lineage"})
    if card.lineage is not None:
        found["derived_from"] = card.lineage.source.root
        found["curated"] = [
            f"{step.name} ({step.library} {step.version}): {step.before.documents - step.after.documents} of "
            f"{step.before.documents} documents left out"
            for step in card.lineage.steps
        ]
    return {**found, **card.content.model_dump(mode="json"), "files": len(card.files)}


def text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or None
    if isinstance(value, dict):
        return ", ".join(f"{key}={each}" for key, each in value.items()) or None
    return None if value in (None, "") else str(value)


def print_rows(found: list[Row], as_json: bool) -> None:
    if as_json:
        emit_json({"datasets": [row.to_json() for row in found]})
        return
    emit_table(
        (
            "name",
            "member",
            "languages",
            "licence",
            "category",
            "stages",
            "documents",
            "text",
            "until",
            "root",
        ),
        [
            (
                row.name,
                row.member or row.owner,
                ", ".join(row.languages) or None,
                row.licence,
                row.category,
                ", ".join(row.stages) or None,
                row.documents,
                None if row.bytes is None else human_bytes(row.bytes),
                row.consent_until,
                short(row.root),
            )
            for row in found
        ],
        right=("documents", "text"),
    )
    if not found:
        note("no datasets; make a card with: tapestry catalog add")


def tell_rights(card: Card, home: Path | None) -> None:
    if home is None:
        note("a node trains on it once the card is its own: tapestry catalog add ... --home NODE_DIR")
        return
    from tapestry.cli.catalog_check import decisions

    for each in decisions(card, home):
        if each.permitted:
            note(f"may enter {each.stage} on this node")
        else:
            note(f"may not enter {each.stage} on this node: rule {each.rule}; needed: {each.needed}")
