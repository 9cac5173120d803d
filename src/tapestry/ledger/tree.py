"""Merkle tree of RFC 9162, section 2.1: hashes, proofs, and whether a proof holds.

A tree is its complete subtrees. `nodes(level, index)` is the hash of the subtree of 2^level leaves that
begins at leaf index · 2^level; whoever keeps a tree keeps these, and they never change once all their leaves
are there. `Tree` keeps them all, for proofs; `Frontier` those that later roots are made of.
Shape legend: a hash is 32 bytes; a proof is a tuple of hashes, from the leaves up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from tapestry.errors import IntegrityError

Nodes = Callable[[int, int], bytes]
HASH_BYTES = 32
MAX_PROOF = 64
"""Hashes of a proof; a tree has at most 2^53 leaves."""
EMPTY = hashlib.sha256(b"").digest()
"""Root of no leaves."""


def leaf_hash(entry: bytes) -> bytes:
    """Of an entry's bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def new_nodes(size: int, leaf: bytes, nodes: Nodes) -> Iterator[tuple[int, int, bytes]]:
    """Level, index and hash of each subtree that a leaf completes, that of the leaf itself first.

    Args:
        size: leaves before it.
        leaf: its hash.
        nodes: of the tree so far.
    """
    level, index, found = 0, size, leaf
    yield level, index, found
    while index % 2:
        found = node_hash(nodes(level, index - 1), found)
        level, index = level + 1, index // 2
        yield level, index, found


def root(size: int, nodes: Nodes) -> bytes:
    """Of the tree of the first `size` leaves."""
    return _range(0, size, nodes) if size else EMPTY


def peaks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Level and index of the complete subtrees that leaves `start` to `stop` are made of, largest first;
    `start` is a multiple of a power of two no less than their number, as in a tree."""
    while start < stop:
        level = (stop - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def inclusion_proof(index: int, size: int, nodes: Nodes) -> tuple[bytes, ...]:
    """That leaf `index` is in the tree of `size` leaves (section 2.1.3). Raises `IndexError`."""
    if not 0 <= index < size:
        raise IndexError(f"a tree of {size} leaves has no leaf {index}")
    proof: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            proof.append(_range(middle, stop, nodes))
            stop = middle
        else:
            proof.append(_range(start, middle, nodes))
            start = middle
    return tuple(reversed(proof))


def consistency_proof(old: int, new: int, nodes: Nodes) -> tuple[bytes, ...]:
    """That the tree of `new` leaves begins with that of `old` (section 2.1.4); () where they are the same
    tree or the older is empty. Raises `IndexError`."""
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {new} leaves does not begin with one of {old}")
    if old in (0, new):
        return ()
    proof: list[bytes] = []
    start, stop, known = 0, new, True
    while old != stop:
        middle = start + _split(stop - start)
        if old <= middle:
            proof.append(_range(middle, stop, nodes))
            stop = middle
        else:
            proof.append(_range(start, middle, nodes))
            start, known = middle, False
    if not known:
        proof.append(_range(start, stop, nodes))
    return tuple(reversed(proof))


class Tree:
    """Grows a leaf at a time and keeps all nodes, level by level: 64 bytes a leaf. A size that is None is its
    own. Asked for what is beyond its size it raises `IndexError`.

    Args:
        leaves: the first, as hashes.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = []
        self.size = 0
        for leaf in leaves:
            self.add(leaf)

    def add(self, leaf: bytes) -> None:
        for level, _, found in new_nodes(self.size, leaf, self.node):
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += found
        self.size += 1

    def node(self, level: int, index: int) -> bytes:
        if level < 0 or not 0 < (index + 1) << level <= self.size:
            raise IndexError(f"a tree of {self.size} leaves has no subtree {index} of level {level}")
        return bytes(self._levels[level][index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def root(self, size: int | None = None) -> bytes:
        return root(self._known(size), self.node)

    def inclusion(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """That leaf `index` is among the first `size`."""
        return inclusion_proof(index, self._known(size), self.node)

    def consistency(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """That the first `new` leaves begin with the first `old`."""
        return consistency_proof(old, self._known(new), self.node)

    def _known(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise IndexError(f"there are {self.size} leaves, not {size}")
        return size


class Frontier:
    """Grows a leaf at a time and keeps its peaks alone, so that it knows each root as it comes (section
    2.1.2), and no proof.

    Args:
        size: leaves before.
        nodes: of the tree of these, by level and index; its peaks at least, or `KeyError` is raised.
    """

    def __init__(self, size: int = 0, nodes: Iterable[tuple[tuple[int, int], bytes]] = ()) -> None:
        known = dict(nodes)
        self.size = size
        self._peaks = [known[at] for at in peaks(0, size)]

    def add(self, leaf: bytes) -> bytes:
        """The root with it."""
        *_, (_, _, found) = new_nodes(self.size, leaf, lambda *_: self._peaks.pop())  # each joins the last
        self._peaks.append(found)
        self.size += 1
        return _joined(self._peaks)

    def nodes(self) -> Iterator[tuple[tuple[int, int], bytes]]:
        """The peaks, by level and index, largest first."""
        return zip(peaks(0, self.size), self._peaks, strict=True)


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> None:
    """Raise `IntegrityError` unless a proof shows that the leaf is in the tree (section 2.1.3.2)."""
    what = f"leaf {index} of a tree of {size}"
    if not 0 <= index < size:
        raise IntegrityError(f"{what}: there is no such leaf")
    at, last, found = index, size - 1, leaf
    for each in proof:
        if not last:
            raise IntegrityError(f"{what}: its proof is too long")
        if at % 2 or at == last:
            found = node_hash(each, found)
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            found = node_hash(found, each)
        at, last = at // 2, last // 2
    if last or found != root_hash:
        raise IntegrityError(f"{what}: its proof leads to another root")


def check_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise `IntegrityError` unless a proof shows that one tree begins with the other (section 2.1.4.2)."""
    what = f"the tree of {new} leaves"
    if old > new:
        raise IntegrityError(f"{what} is smaller than the one of {old} that was seen before")
    if old in (0, new):
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY):
            raise IntegrityError(f"{what} is not the one that was seen before")
        return
    path = list(proof)
    at, last = old - 1, new - 1
    while at % 2:
        at, last = at // 2, last // 2
    if at == 0:  # the older tree is a complete subtree of the newer
        path.insert(0, old_root)
    if not path:
        raise IntegrityError(f"{what} has no proof that it begins with that of {old}")
    older = newer = path[0]
    for each in path[1:]:
        if not last:
            raise IntegrityError(f"{what}: its proof is too long")
        if at % 2 or at == last:
            older, newer = node_hash(each, older), node_hash(each, newer)
            while at and not at % 2:
                at, last = at // 2, last // 2
        else:
            newer = node_hash(newer, each)
        at, last = at // 2, last // 2
    if last or older != old_root or newer != new_root:
        raise IntegrityError(f"{what} does not begin with the one of {old} that was seen before")


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _range(start: int, stop: int, nodes: Nodes) -> bytes:
    """Root over leaves `start` to `stop`, where `start` is a multiple of a power of two no less than their
    number: a subtree of the tree."""
    return _joined([nodes(level, index) for level, index in peaks(start, stop)])


def _joined(hashes: Sequence[bytes]) -> bytes:
    """Root over the subtrees that a tree is made of, largest first."""
    found = hashes[-1]
    for left in hashes[-2::-1]:
        found = node_hash(left, found)
    return found
