"""Blobs that go between a node and the object store directly, by signed URLs.

A node puts what it brings under a name of its own, `incoming/NODE/SHA256`, where it is no blob. Its URL stays
good for a while, so what lies there may change at any moment: it is copied to a name that no URL was ever
signed for, read there, and only what was read gets the blob's name. What is wrong, or was never spoken of
again, is removed.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Final

from tapestry.errors import HashMismatch, NotFound, ResourceError, TooLarge
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import ABANDONED_S, INCOMING, blob_name
from tapestry.storage.bucket import MARKER
from tapestry.storage.tiered import TieredStore

TAKING: Final = f"{INCOMING}/.taking"
"""No node can have this name."""


class Handover:
    """Signs URLs of one store's objects, and takes in what nodes put there.

    Args:
        store: whose blobs.
        lifetime_s: how long a URL is good.
    """

    def __init__(self, store: TieredStore, *, lifetime_s: int) -> None:
        self.lifetime_s = lifetime_s
        self._store = store
        self._bucket = store.bucket

    def check(self) -> None:
        """Raise `StoreError` where the credentials cannot sign."""
        self._bucket.sign("GET", MARKER, self.lifetime_s)

    def read_url(self, sha: str) -> str:
        """Of a blob that the object store has."""
        return self._bucket.sign("GET", blob_name(sha), self.lifetime_s)

    def write_url(self, node: str, sha: str) -> str:
        """Where a node may put a blob, to be looked at by `take`."""
        return self._bucket.sign("PUT", _arrival(node, sha), self.lifetime_s)

    def take(self, node: str, blob: Blob) -> None:
        """Make what the node put a blob, whole, verified and durable.

        Raises:
            NotFound: it has put nothing.
            TooLarge, HashMismatch: it has put something else, which was removed.
        """
        arrival, own = _arrival(node, blob.sha256), f"{TAKING}/{secrets.token_hex(16)}"
        size = self._bucket.size(arrival)
        if size is None:
            raise NotFound(f"node {node} has not put blob {blob.sha256}")
        try:
            if size > blob.bytes:
                raise TooLarge(f"blob {blob.sha256} was put with {size} bytes; {blob.bytes} were announced")
            self._bucket.copy(arrival, own)
            self._store.accept(own, blob)
        except (HashMismatch, TooLarge):
            self._discard(arrival)
            raise
        finally:
            self._discard(own)
        self._discard(arrival)

    def clean(self) -> int:
        """Remove what nobody has asked to have taken in; how many objects that were."""
        return self._bucket.clean(INCOMING, older_than_s=self.lifetime_s + ABANDONED_S)

    def _discard(self, name: str) -> None:
        with contextlib.suppress(ResourceError):  # it harms nobody, and `clean` comes by
            self._bucket.delete(name)


def _arrival(node: str, sha: str) -> str:
    blob_name(sha)  # refuses what is no address
    return f"{INCOMING}/{node}/{sha}"
