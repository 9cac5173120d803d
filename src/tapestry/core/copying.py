"""Blobs on their way from one store or several into another: a backup, or a core that is recovered."""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.errors import HashMismatch, NotFound
from tapestry.storage.blobs import BlobStore


class Copy:
    """Into `target`, each blob from the first of `sources` that has it whole."""

    def __init__(self, target: BlobStore, sources: Sequence[BlobStore]) -> None:
        self._target = target
        self._sources = sources
        self.copied = 0
        self.lost: set[str] = set()
        """Asked for, and erased, damaged or lost at all of them."""

    def bring(self, sha: str) -> None:
        """Have a blob in the target, where a source still has it."""
        if sha in self.lost or self._target.has(sha):
            return
        for source in self._sources:
            try:
                self._target.adopt(source.fetch(sha), sha)
            except (NotFound, HashMismatch):
                continue
            self.copied += 1
            return
        self.lost.add(sha)

    def read(self, sha: str, max_bytes: int) -> bytes:
        """A blob's bytes, brought here first. Errors as of `BlobStore.read`."""
        self.bring(sha)
        return self._target.read(sha, max_bytes)
