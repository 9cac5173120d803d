"""A demo's texts have cards that let them in, and one dataset has a card that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.cli.catalog_check import decisions
from tapestry.cli.demo import cards, lay
from tapestry.cli.demo.places import Places
from tapestry.cli.demo.texts import MemberText
from tapestry.training.shelf import Shelf


@pytest.fixture
def laid(tmp_path: Path) -> tuple[list[MemberText], Places]:
    members = []
    for name in ("ada", "bob"):
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True)
        for split in ("train", "valid"):
            (folder / f"{split}.txt").write_text(f"Text of {name}, {split}.")
        members.append(MemberText(name=name, about=f"about {name}", folder=folder))
    places = Places(tmp_path / "out")
    places.out.mkdir()
    lay.nodes(members, places, threads=1)
    return members, places


@pytest.mark.parametrize("own_text", [False, True])
def test_each_text_may_train_the_base(own_text: bool, laid: tuple[list[MemberText], Places]) -> None:
    members, places = laid
    cards.make(members, places, own_text=own_text)
    for member in members:
        home = places.node(member.name)
        made = Shelf.of_node(home).read(f"{member.name}-text").card
        assert made.folder == str(member.folder.resolve())
        assert [(each.stage, each.permitted) for each in decisions(made, home)] == [("base", True)]


def test_a_second_call_makes_a_card_anew_only_where_the_text_changed(
    laid: tuple[list[MemberText], Places],
) -> None:
    members, places = laid
    for _ in range(2):
        cards.make(members, places, own_text=False)
    (members[0].folder / "train.txt").write_text("Another text.")
    cards.make(members, places, own_text=False)
    found = [Shelf.of_node(places.node(m.name)).read(f"{m.name}-text").card.revision for m in members]
    assert found == [2, 1]


def test_one_dataset_is_kept_out_and_the_rule_is_named(laid: tuple[list[MemberText], Places]) -> None:
    members, places = laid
    kept = cards.keep_out(members, places)
    assert (kept.member, kept.dataset, kept.rule) == ("ada", "letters", "category")
    assert kept.needed in str(kept) and "may not enter stage base" in str(kept)
    assert cards.keep_out(members, places) == kept
