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
        self._peaks: list[bytes] = []
        """Roots of the complete subtrees before these, largest first."""

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
            found, left = _complete(self._leaves), self.documents // CHUNK - 1
            while left % 2:
                found = tree.node_hash(self._peaks.pop(), found)
                left //= 2
            self._peaks.append(found)
            self._leaves.clear()

    def content(self) -> Content:
        """Of the documents so far."""
        peaks, at = list(self._peaks), 0
        for bit in reversed(range(CHUNK.bit_length() - 1)):
            if len(self._leaves) >> bit & 1:
                peaks.append(_complete(self._leaves[at : at + (1 << bit)]))
                at += 1 << bit
        root = tree.EMPTY
        if peaks:
            root = peaks[-1]
            for peak in reversed(peaks[:-1]):
                root = tree.node_hash(peak, root)
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
