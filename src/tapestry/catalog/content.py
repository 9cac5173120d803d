"""The content hash of a dataset: counts and Merkle root over its documents, as they come by.

Of the tree only the complete subtrees at the right edge are held, so there may be any number of documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tapestry.catalog.card import Content
from tapestry.ledger import tree


class Tally:
    """Takes documents one after the other."""

    def __init__(self) -> None:
        self.documents = 0
        self.bytes = 0
        """Of UTF-8 text."""
        self._peaks: list[bytes] = []
        """Roots of the complete subtrees, largest first."""

    def take(self, pieces: Iterable[str]) -> int:
        """One document in pieces of text; returns its bytes. One without text does not count."""
        each = iter(pieces)
        data = next(each, "").encode("utf-8")
        leaf, size = hashlib.sha256(b"\x00" + data), len(data)
        for piece in each:
            data = piece.encode("utf-8")
            leaf.update(data)
            size += len(data)
        if size:
            self.bytes += size
            self._add(leaf.digest())
        return size

    def _add(self, leaf: bytes) -> None:
        found, left = leaf, self.documents
        while left % 2:
            found = tree.node_hash(self._peaks.pop(), found)
            left //= 2
        self._peaks.append(found)
        self.documents += 1

    def content(self) -> Content:
        """Of the documents so far."""
        root = tree.EMPTY
        if self._peaks:
            root = self._peaks[-1]
            for peak in reversed(self._peaks[:-1]):
                root = tree.node_hash(peak, root)
        return Content(
            documents=self.documents, bytes=self.bytes, tokens=self.bytes + self.documents, root=root.hex()
        )
