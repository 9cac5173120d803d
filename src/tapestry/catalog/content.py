"""The content hash of a dataset: counts and Merkle root over its documents, as they come by.

Of the tree only the complete subtrees at the right edge are held, so there may be any number of documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from tapestry.catalog.card import Content
from tapestry.ledger import tree

LEAF: Final = b"\x00"
"""Before a document's text, where it is hashed."""
CHUNK: Final = 256
"""Leaves that become a subtree at once; a power of two."""


class Tally:
    """Takes documents one after the other."""

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        """Of UTF-8 text."""
        self._leaves: list[bytes] = []
        """Of the newest documents, fewer than `CHUNK`."""
        self._before = tree.Frontier()
        """Over the subtrees of `CHUNK` leaves before these."""

    def take(self, pieces: Iterable[str]) -> int:
        """One document in pieces of text; returns its bytes. One without text does not count."""
        leaf, size = leaf_of(pieces)
        if size:
            self.add(leaf, size)
        return size

    def add(self, leaf: bytes, size: int) -> None:
        """One document, by its leaf and the bytes of its text."""
        self.documents += 1
        self.bytes += size
        self._leaves.append(leaf)
        if len(self._leaves) == CHUNK:
            self._before.add(_complete(self._leaves))
            self._leaves.clear()

    def content(self) -> Content:
        """Of the documents so far."""
        before, folded = dict(self._before.nodes()), CHUNK.bit_length() - 1

        def node(level: int, index: int) -> bytes:
            if level >= folded:
                return before[level - folded, index]
            start = (index << level) % CHUNK
            return _complete(self._leaves[start : start + (1 << level)])

        root = tree.root(self.documents, node)
        return Content(
            documents=self.documents, bytes=self.bytes, tokens=self.bytes + self.documents, root=root.hex()
        )


def leaf_of(pieces: Iterable[str]) -> tuple[bytes, int]:
    """A document's leaf in the tree, and the bytes of its text."""
    each = iter(pieces)
    data = next(each, "").encode()
    leaf, size = hashlib.sha256(LEAF + data), len(data)
    for piece in each:
        data = piece.encode()
        leaf.update(data)
        size += len(data)
    return leaf.digest(), size


def _complete(level: list[bytes]) -> bytes:
    """Root of a tree whose number of leaves is a power of two."""
    sha256 = hashlib.sha256
    while len(level) > 1:
        pairs = iter(level)
        level = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return level[0]
