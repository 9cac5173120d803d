"""A card says how its text came to be out of other text, in words of PROV-O; what is broken is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.catalog.croissant import CardFile, render
from tapestry.catalog.lineage import Lineage
from tapestry.catalog.listing import shown
from tapestry.errors import CardError
from tapestry.training.shelf import Shelf
from tests.catalog.made import card, values

ROOT = card().content.root
BEFORE = {"documents": 5, "bytes": 99, "root": "a" * 64}
BETWEEN = {"documents": 4, "bytes": 90, "root": "b" * 64}
AFTER = {"documents": card().content.documents, "bytes": card().content.bytes, "root": ROOT}
STEPS = [
    {"name": "quality", "library": "tapestry", "version": "0.1.0", "settings": "c" * 64,
     "before": BEFORE, "after": BETWEEN},
    {"name": "duplicates", "library": "rensa", "version": "0.5.0", "settings": "d" * 64,
     "before": BETWEEN, "after": AFTER},
]  # fmt: skip
GIVEN: dict[str, Any] = {"tool": "tapestry 0.1.0", "source": BEFORE, "steps": STEPS, "result": AFTER}


def rendered() -> dict[str, Any]:
    return copy.deepcopy(render(card(lineage=GIVEN)))


def read(found: dict[str, Any]) -> CardFile:
    return CardFile.from_bytes(json.dumps(found).encode(), "letters.json")


def test_a_card_keeps_its_lineage_and_what_others_wrote() -> None:
    found = rendered() | {"prov:wasAttributedTo": "Acme", "citeAs": "Acme 2026"}
    found["tapestry:lineage"]["acme:checkedBy"] = "K."
    found["tapestry:lineage"]["prov:wasGeneratedBy"][0]["acme:took"] = "3 s"
    file = read(found)
    assert file.card == card(lineage=GIVEN)
    assert file.document() == found
    assert file.card.lineage is not None and file.card.lineage.steps[1].library == "rensa"


def test_a_card_without_one_is_as_it_was() -> None:
    found = render(card())
    assert "tapestry:lineage" not in found and "prov" not in found["@context"]
    assert "lineage" not in card().model_dump(mode="json")


def test_it_is_never_published() -> None:
    entry, _ = shown(card(lineage=GIVEN))
    assert "lineage" not in json.dumps(entry.model_dump(mode="json"))
    assert "b" * 64 not in json.dumps(entry.model_dump(mode="json"))


def test_text_that_was_made_anew_without_curation_has_no_lineage_any_more(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(values(lineage=GIVEN))
    path = shelf.path("letters")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"citeAs": "Acme"}))
    again = shelf.put(values(), replace=True)
    assert again.card.lineage is None and again.document()["citeAs"] == "Acme"
    assert shelf.put(values(lineage=GIVEN), replace=True).card.lineage is not None


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another end": (lambda found: found["tapestry:lineage"].update({"tapestry:root": "e" * 64}),
                    "is not what the last step gave"),
    "a gap": (lambda found: found["tapestry:lineage"]["prov:wasGeneratedBy"].pop(0), "does not begin with"),
    "no source": (lambda found: found["tapestry:lineage"].pop("prov:wasDerivedFrom"), "is not written as"),
    "another word": (lambda found: found["@context"].update(prov="http://example.org/"), "prov"),
    "no object": (lambda found: found.update({"tapestry:lineage": []}), "lineage"),
    "another root": (lambda found: found["tapestry:content"].update(root="f" * 64), "ends in other text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_lineage_is_refused(name: str) -> None:
    spoil, said = BROKEN[name]
    found = rendered()
    assert read(found).card.lineage is not None, "the control"
    spoil(found)
    with pytest.raises(CardError, match=said):
        read(found)


def test_a_file_of_other_text_is_refused() -> None:
    lineage = Lineage.model_validate_json(json.dumps(GIVEN))
    assert Lineage.from_bytes(lineage.to_bytes(), "l.json") == lineage
    lineage.require(lineage.result, "l.json")
    with pytest.raises(CardError, match="other text"):
        lineage.require(lineage.source, "l.json")
    with pytest.raises(CardError, match=r"l\.json"):
        Lineage.from_bytes(b"{}", "l.json")
