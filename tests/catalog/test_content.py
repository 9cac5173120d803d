"""The content hash: what docs/formats/cards.md says, however the text comes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.catalog.content import CHUNK, Tally
from tapestry.ledger import tree

TEXTS = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), max_size=40)


def tally(texts: list[str]) -> Tally:
    found = Tally()
    for text in texts:
        found.take([text])
    return found


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@given(TEXTS)
def test_it_is_the_root_over_the_documents_that_have_text(texts: list[str]) -> None:
    content = tally(texts).content()
    documents = [text.encode() for text in texts if text]
    assert content.root == by_definition(documents).hex()
    assert content.documents == len(documents)
    assert content.bytes == sum(map(len, documents))
    assert content.tokens == content.bytes + content.documents


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(0, 50))
def test_pieces_make_no_difference(text: str, cut: int) -> None:
    whole, parts = Tally(), Tally()
    whole.take([text])
    parts.take([text[:cut], text[cut:]])
    assert whole.content() == parts.content()


@pytest.mark.parametrize("documents", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK + 171])
def test_it_is_the_root_beyond_the_leaves_that_are_folded_at_once(documents: int) -> None:
    texts = [str(n) for n in range(documents)]
    assert tally(texts).content().root == by_definition([text.encode() for text in texts]).hex()


def test_asking_between_documents_changes_nothing() -> None:
    found = Tally()
    for n in range(CHUNK + 5):
        found.take([str(n)])
        found.content()
    assert found.content() == tally([str(n) for n in range(CHUNK + 5)]).content()


def test_a_document_can_be_shown_to_be_in_it() -> None:
    texts = [f"document {n}" for n in range(21)]
    proof = tree.Tree(tree.leaf_hash(text.encode()) for text in texts).inclusion(13)
    root = bytes.fromhex(tally(texts).content().root)
    tree.check_inclusion(tree.leaf_hash(b"document 13"), 13, 21, proof, root)


def test_order_and_bounds_of_documents_count() -> None:
    roots = {
        tally(texts).content().root for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", "b"], ["a"])
    }
    assert len(roots) == 5


def test_a_known_root() -> None:
    """Written down once: another program can be held against it."""
    assert tally(["Das Maß ist voll.", "Чашка чая", "日本語のテキスト"]).content().root == KNOWN


KNOWN = "9ce15549b2dd51cb767484839cc195d1380dd9d64f27c04c3b57caa12f866427"
