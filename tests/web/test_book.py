"""Looking things up in a ledger: every entry is found, by what it says, with a proof that holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.errors import NotFound
from tapestry.ledger import tree
from tapestry.ledger.entries import Entry
from tapestry.web.book import Book, Search
from tests.web.world import World


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    folder = tmp_path_factory.mktemp("book")
    with (world := World(folder / "core")).core:
        verifier = world.live().written(folder / "ledger.jsonl")
        book = Book(folder / "ledger.jsonl")
        book.follow(verifier.found.entries)
    assert book.size == verifier.found.entries > 60
    return book


def entries(book: Book) -> list[Entry]:
    return [Entry.from_bytes(book.entry(number)) for number in range(1, book.size + 1)]


def test_every_entry_is_there_in_its_place(book: Book) -> None:
    assert [each.sequence for each in entries(book)] == list(range(1, book.size + 1))
    for wrong in (0, -1, book.size + 1, 1 << 60):
        with pytest.raises(NotFound):
            book.entry(wrong)


def test_every_proof_holds(book: Book) -> None:
    roots = {size: tree.root(size, book._node) for size in range(1, book.size + 1)}
    for size in (1, 2, book.size // 2, book.size):
        for number in range(1, size + 1):
            leaf = tree.leaf_hash(book.entry(number))
            tree.check_inclusion(leaf, number - 1, size, book.inclusion(number, size), roots[size])
        tree.check_consistency(
            size, roots[size], book.size, roots[book.size], book.consistency(size, book.size)
        )
    for wrong in ((0, 1), (2, 1), (1, book.size + 1)):
        with pytest.raises(NotFound):
            book.inclusion(*wrong)
    with pytest.raises(NotFound):
        book.consistency(2, 1)


def test_a_search_finds_what_it_says(book: Book) -> None:
    all_of_them = entries(book)
    kinds = {each.type for each in all_of_them}
    assert set(book.values("kind")) == kinds and book.values("run") == ["run"]
    for kind in kinds:
        assert [*book.found(Search(kind=kind))] == [e.sequence for e in all_of_them if e.type == kind]
    of_round = [e.sequence for e in all_of_them if e.scope == "run" and e.body.get("round") == 2]
    assert [*book.found(Search(run="run", round=2))] == of_round
    of_bob = [*book.found(Search(member="bob", kind="contribution-accepted"))]
    assert [all_of_them[at - 1].body["node"] for at in of_bob] == ["bob-1"] * 3
    assert [*book.found(Search(member="dan", kind="round-closed"))] == []
    assert len(book.found(Search(member="ada", kind="round-closed"))) == 3
    assert [*book.found(Search())] == [e.sequence for e in all_of_them]
    assert not book.found(Search(kind="nothing")) and not book.found(Search(round=1 << 50))


def test_a_file_that_grows_is_followed_and_one_that_shrank_read_anew(book: Book, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lines = book._path.read_bytes().splitlines(keepends=True)
    following = Book(path)
    following.follow(10)
    assert following.size == 0
    path.write_bytes(b"".join(lines[:40])[:-5])
    following.follow(1 << 30)
    some = following.size
    assert 0 < some < book.size
    path.write_bytes(b"".join(lines))
    following.follow(some + 1)
    assert following.size == some + 1
    following.follow(1 << 30)
    assert following.size == book.size and following.entry(7) == book.entry(7)
    path.write_bytes(b"".join(lines[:40]))
    following.follow(1 << 30)
    assert following.size <= some + 1
