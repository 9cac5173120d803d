"""Which blobs nodes may exchange with the object store directly, and what that counts for them."""

from __future__ import annotations

import threading
import time
from typing import Final

from tapestry.core.quota import Quota
from tapestry.core.settings import CoreSettings
from tapestry.errors import (
    HashMismatch,
    NotFound,
    Refused,
    ResourceError,
    SettingsError,
    StoreError,
    TooLarge,
)
from tapestry.protocol.artifact import Blob
from tapestry.storage.blobs import BlobStore
from tapestry.storage.direct import Handover
from tapestry.storage.tiered import TieredStore

LEAST_BYTES: Final = 1 << 20
"""A smaller blob costs more in requests than it saves in bytes."""


def direct(settings: CoreSettings, store: BlobStore, quota: Quota) -> Direct | None:
    """As core.toml says; None where every byte goes through the core.

    Raises:
        SettingsError: switched on, and there is no object store.
        StoreError: switched on, and its credentials cannot sign.
    """
    if not settings.object_store.direct:
        return None
    if not isinstance(store, TieredStore):
        raise SettingsError(
            "[object_store] direct = true, but `blobs` is a folder: there is no store that nodes could reach",
            hint="set direct = false in core.toml, or give an object store as `blobs`",
        )
    handover = Handover(store, lifetime_s=settings.object_store.direct_s)
    handover.check()
    return Direct(store, handover, quota)


class Direct:
    """Answers for signed URLs. Safe to use from several threads."""

    def __init__(self, store: TieredStore, handover: Handover, quota: Quota) -> None:
        self._store = store
        self._handover = handover
        self._quota = quota
        self._lock = threading.Lock()
        self._clean_at = 0.0

    def source(self, sha: str) -> dict[str, str | int] | None:
        """From where to fetch a blob, and its bytes; None where it is to be relayed."""
        try:
            size = self._store.sound_there(sha)
            if size is None or size < LEAST_BYTES:
                return None
            return {"bytes": size, "url": self._handover.read_url(sha)}
        except StoreError:  # it may lie in the folder all the same
            return None

    def place(self, node: str, blob: Blob) -> str | None:
        """Have a blob of this node.

        Returns:
            None where it is here now, verified and durable; else where to put it, to call this again then.

        Raises:
            Refused: too small for this way, or too much for the node.
            TooLarge, HashMismatch: the node has put something else; it is gone.
            StoreError, DiskFull: try again later.
        """
        if blob.bytes < LEAST_BYTES:
            raise Refused(f"blob {blob.sha256} has less than {LEAST_BYTES} bytes", hint="send it to the core")
        if self._store.has(blob.sha256) and self._store.size(blob.sha256) == blob.bytes:
            self._store.sync([blob.sha256])
            return None
        try:
            self._handover.take(node, blob)
        except NotFound:
            self._quota.reserve(node, blob.sha256, blob.bytes, self._handover.lifetime_s)
            self._clean()
            return self._handover.write_url(node, blob.sha256)
        except (HashMismatch, TooLarge):
            self._charge(node, blob)
            raise
        self._charge(node, blob)
        return None

    def _charge(self, node: str, blob: Blob) -> None:
        self._quota.forget(node, blob.sha256)
        self._quota.charge(node, blob.bytes)

    def _clean(self) -> None:
        """Now and then, what was put and never spoken of again."""
        with self._lock:
            if time.monotonic() < self._clean_at:
                return
            self._clean_at = time.monotonic() + self._handover.lifetime_s
        try:
            self._handover.clean()
        except ResourceError:
            return  # another time
