"""The tree against the vectors of the reference implementation of RFC 6962, whose hashes RFC 9162 keeps, and
against a root and proofs written down from the RFC's recursive definitions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import IntegrityError
from tapestry.ledger import tree

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
SIZES = st.integers(1, 70)


def grown(entries: list[bytes]) -> tree.Tree:
    return tree.Tree(map(tree.leaf_hash, entries))


MANY = [hashlib.sha256(bytes([n])).digest()[: n % 33] for n in range(70)]
WHOLE = grown(MANY)


def recursive_root(entries: list[bytes]) -> bytes:
    """MTH of section 2.1.1."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + recursive_root(entries[:k]) + recursive_root(entries[k:])).digest()


def recursive_path(m: int, entries: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.3.1."""
    if len(entries) == 1:
        return []
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m < k:
        return [*recursive_path(m, entries[:k]), recursive_root(entries[k:])]
    return [*recursive_path(m - k, entries[k:]), recursive_root(entries[:k])]


def recursive_subproof(m: int, entries: list[bytes], known: bool) -> list[bytes]:
    """SUBPROOF of section 2.1.4.1."""
    if m == len(entries):
        return [] if known else [recursive_root(entries)]
    k = 1
    while k * 2 < len(entries):
        k *= 2
    if m <= k:
        return [*recursive_subproof(m, entries[:k], known), recursive_root(entries[k:])]
    return [*recursive_subproof(m - k, entries[k:], False), recursive_root(entries[:k])]


def test_roots_are_the_reference_implementations() -> None:
    made = grown(LEAVES)
    assert [made.root(size).hex() for size in range(1, 9)] == ROOTS
    assert made.root(0) == hashlib.sha256(b"").digest()


def test_no_node_is_ever_written_again() -> None:
    kept: dict[tuple[int, int], bytes] = {}
    for size, entry in enumerate(MANY):
        for level, index, found in tree.new_nodes(size, tree.leaf_hash(entry), lambda *at: kept[at]):
            assert (level, index) not in kept
            kept[level, index] = found
    assert kept == {at: WHOLE.node(*at) for at in kept}
    assert len(kept) == sum(len(MANY) >> level for level in range(7))


@given(entries=st.lists(st.binary(max_size=3), max_size=40))
def test_a_tree_and_a_frontier_have_the_root_of_the_definition_at_every_size(entries: list[bytes]) -> None:
    whole, frontier = tree.Tree(), tree.Frontier()
    roots = [recursive_root(entries[:size]) for size in range(len(entries) + 1)]
    assert whole.root() == roots[0]
    for entry, root in zip(entries, roots[1:], strict=True):
        whole.add(tree.leaf_hash(entry))
        assert frontier.add(tree.leaf_hash(entry)) == whole.root() == root
    assert whole.size == frontier.size == len(entries)
    assert [whole.root(size) for size in range(len(roots))] == roots


@given(size=SIZES, data=st.data())
def test_a_leaf_is_shown_to_be_there_and_nothing_else_is(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = WHOLE.inclusion(index, size)
    assert proof == grown(MANY[:size]).inclusion(index)
    assert list(proof) == recursive_path(index, MANY[:size])
    leaf, root = tree.leaf_hash(MANY[index]), WHOLE.root(size)
    tree.check_inclusion(leaf, index, size, proof, root)
    for wrong in (
        (tree.leaf_hash(b"another"), index, size, proof, root),
        (leaf, index, size, (*proof, root), root),
        (leaf, index, size, proof, tree.leaf_hash(b"another")),
        (leaf, size, size, proof, root),
        (leaf, -1, size, proof, root),
        *((leaf, each, size, proof, root) for each in range(size) if each != index),
        *((leaf, index, size, _changed(proof, place), root) for place in range(len(proof))),
        *((leaf, index, size, proof[:cut], root) for cut in range(len(proof))),
    ):
        with pytest.raises(IntegrityError):
            tree.check_inclusion(*wrong)


@given(new=SIZES, data=st.data())
def test_a_tree_is_shown_to_begin_with_an_older_one(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, new))
    proof = WHOLE.consistency(old, new)
    assert proof == grown(MANY[:new]).consistency(old)
    if 0 < old < new:
        assert list(proof) == recursive_subproof(old, MANY[:new], True)
    before, after = WHOLE.root(old), WHOLE.root(new)
    tree.check_consistency(old, before, new, after, proof)
    other = tree.leaf_hash(b"another")
    wrong = [(old, other, new, after, proof), (old, before, new, after, (*proof, other))]
    wrong += [(old, before, new, after, _changed(proof, place)) for place in range(len(proof))]
    wrong += [(old, before, new, after, proof[:cut]) for cut in range(len(proof))]
    if old:
        wrong.append((old, before, new, other, proof))
        wrong.append((new + 1, after, new, after, proof))
    for each in wrong:
        with pytest.raises(IntegrityError):
            tree.check_consistency(*each)


@given(new=st.integers(2, 70), data=st.data())
def test_a_rewritten_history_is_found(new: int, data: st.DataObject) -> None:
    """The core has changed an entry that was seen: no proof of its own new tree leads to the old root."""
    old = data.draw(st.integers(1, new - 1))
    at = data.draw(st.integers(0, old - 1))
    forged = grown([*MANY[:at], b"rewritten", *MANY[at + 1 : new]])
    with pytest.raises(IntegrityError, match="seen before"):
        tree.check_consistency(old, WHOLE.root(old), new, forged.root(), forged.consistency(old))


def test_a_tree_tells_nothing_of_what_is_not_there() -> None:
    three = grown(MANY[:3])
    cases: dict[Callable[..., object], list[tuple[int, ...]]] = {
        three.node: [(0, 3), (1, 1), (2, 0), (0, -1), (1, -1), (-1, 0)],
        three.root: [(4,), (-1,)],
        three.inclusion: [(3,), (-1,), (0, 0), (2, 2), (0, 4), (3, 4), (0, -1)],
        three.consistency: [(4,), (-1,), (3, 2), (0, 4), (3, 4), (4, 4), (0, -1)],
    }
    for asked, all_given in cases.items():
        for each in all_given:
            with pytest.raises(IndexError):
                asked(*each)


@given(size=st.integers(0, 70))
def test_a_frontier_goes_on_from_its_peaks(size: int) -> None:
    frontier = tree.Frontier()
    for entry in MANY[:size]:
        frontier.add(tree.leaf_hash(entry))
    kept = dict(frontier.nodes())
    assert kept == {at: WHOLE.node(*at) for at in tree.peaks(0, size)}
    assert len(kept) == size.bit_count()
    for nodes in (kept, dict(reversed(kept.items()))):
        again = tree.Frontier(size, nodes.items())
        roots = [again.add(tree.leaf_hash(entry)) for entry in MANY[size:]]
        assert roots == [WHOLE.root(n) for n in range(size + 1, len(MANY) + 1)]
    for lost in kept:
        with pytest.raises(KeyError):
            tree.Frontier(size, ((at, found) for at, found in kept.items() if at != lost))


def _changed(proof: tuple[bytes, ...], place: int) -> tuple[bytes, ...]:
    other = bytes([proof[place][0] ^ 1]) + proof[place][1:]
    return (*proof[:place], other, *proof[place + 1 :])
