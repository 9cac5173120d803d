"""What is published of a card, and tables over many."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.catalog import overview
from tapestry.catalog.card import SHOWN, Card, Content, File
from tapestry.catalog.listing import CatalogEntry, Shown, shown
from tapestry.errors import FormatError
from tests.catalog.made import card

CANARY = "canary-7f3a"


def entry(made: Card, **changed: Any) -> CatalogEntry:
    what, public = shown(made)
    fields: dict[str, Any] = {
        "consortium": "0" * 64, "member": "acme", "node": "acme-1", "dataset": made.name,
        "at": "2026-11-22T00:00:00.000Z", "card": what, "public": public,
    }  # fmt: skip
    return CatalogEntry(**(fields | changed))


def test_private_fields_are_not_in_it() -> None:
    planted = card(
        description=CANARY, provenance=CANARY, consent_basis=CANARY, folder=f"/{CANARY}",
        files=[{"path": f"{CANARY}.txt", "split": "train", "bytes": 9, "documents": 3, "sha256": "1" * 64}],
    )  # fmt: skip
    assert CANARY.encode() not in entry(planted).to_bytes()
    # The control: the very same fields are there once their owner shows them, but for files and folder.
    open_ = planted.model_copy(update={"visibility": dict.fromkeys(SHOWN, "consortium")})
    assert entry(open_).to_bytes().count(CANARY.encode()) == 3


def test_every_field_may_be_kept_private_but_the_name() -> None:
    hidden = card(visibility=dict.fromkeys(SHOWN, "private"))
    what, public = shown(hidden)
    assert set(what.model_dump().values()) == {None}
    assert public == ()


def test_every_field_of_a_card_is_shown_or_private_always() -> None:
    of_card = set(Card.model_fields) | set(Content.model_fields)
    never = {"name", "content", "files", "folder", "visibility", "tokenizer", "lineage"}
    assert of_card - never == set(SHOWN) == set(Shown.model_fields)
    assert set(File.model_fields) & set(Shown.model_fields) <= {"bytes", "documents"}


def test_it_is_a_message_like_others() -> None:
    made = entry(card())
    assert CatalogEntry.from_bytes(made.to_bytes()) == made
    with pytest.raises(FormatError, match="files"):
        value = made.model_dump(mode="json")
        value["card"]["files"] = []
        CatalogEntry.from_json(value)


def rows() -> list[overview.Row]:
    german = overview.of_card(card(name="a", languages=["de"], domain="law"))
    mixed = overview.of_card(card(name="b", languages=["de", "ru"], stages=["sft"]))
    hidden = overview.of_entry(entry(card(name="c", languages=["no"], visibility={"bytes": "private"})))
    assert hidden is not None
    return [german, mixed, hidden]


def test_coverage_counts_what_is_in_one_language_and_says_what_lacks() -> None:
    found = {each.language: each for each in overview.coverage(rows(), ["rm"])}
    size = card().content
    assert (found["de"].datasets, found["de"].documents, found["de"].bytes) == (2, 3, size.bytes)
    assert found["de"].mixed_bytes == found["ru"].mixed_bytes == size.bytes
    assert (found["ru"].bytes, found["no"].bytes, found["no"].unstated) == (0, 0, 1)
    assert "base" not in found["de"].missing
    assert "sft" in found["no"].missing
    assert (found["rm"].datasets, len(found["rm"].missing)) == (0, 6)
    assert [each.language for each in overview.coverage(rows(), ["rm"])] == ["de", "ru", "no", "rm"]
    assert "_permitted" not in found["de"].to_json()


@pytest.mark.parametrize(
    ("words", "names"),
    [([], "abc"), (["LAW"], "a"), (["de", "sft"], "b"), (["acme"], "abc"), (["nowhere"], ""), (["no"], "c")],
)
def test_a_search_wants_every_word(words: list[str], names: str) -> None:
    assert "".join(row.name for row in overview.search(rows(), words)) == names


def test_what_was_taken_back_has_no_row() -> None:
    assert overview.of_entry(entry(card(), card=None)) is None
