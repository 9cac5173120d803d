"""Looking things up in a ledger: what is found is what says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tapestry.ledger.entries import Entry
from tapestry.web.book import Book
from tapestry.web.index import Index, Search
from tests.web.world import Dashboard, World


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("index")
    with (world := World(folder / "core")).core:
        yield Dashboard(world.live(), folder)


def entries(book: Book) -> list[Entry]:
    return [each.entry for each in book.read(1, book.size)]


def test_a_search_finds_what_it_says(board: Dashboard) -> None:
    index = Index()
    index.follow(board.book)
    found = entries(board.book)
    kinds = {each.type for each in found}
    assert index.size == len(found) > 60
    assert set(index.values("kind")) == kinds and index.values("run") == ["run"]
    for kind in kinds:
        assert [*index.found(Search(kind=kind))] == [each.sequence for each in found if each.type == kind]
    of_round = [each.sequence for each in found if each.scope == "run" and each.body.get("round") == 2]
    assert [*index.found(Search(run="run", round=2))] == of_round
    of_bob = [*index.found(Search(member="bob", kind="contribution-accepted"))]
    assert [found[at - 1].body["node"] for at in of_bob] == ["bob-1"] * 3
    assert [index.member_of(found[at - 1]) for at in of_bob] == ["bob"] * 3
    assert [*index.found(Search(member="dan", kind="round-closed"))] == []
    assert len(index.found(Search(member="ada", kind="round-closed"))) == 3
    assert [*index.found(Search())] == [each.sequence for each in found]
    assert not index.found(Search(kind="nothing")) and not index.found(Search(round=1 << 50))


def test_what_comes_later_is_found_too(board: Dashboard) -> None:
    index = Index()
    index.follow(board.book)
    before = index.size
    board.world.vote(board.world.names["hostile"], yes=["cyd"])
    board.again()
    index.follow(board.book)
    assert index.size == before + 1
    assert [*index.found(Search(kind="ballot-cast", member="cyd"))][-1] == index.size
