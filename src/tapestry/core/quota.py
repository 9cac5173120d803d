"""How much a node may leave at the core that no accepted contribution uses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from tapestry.errors import Refused

FILE_BYTES: Final = 4096
"""What each upload costs beside its bytes, so that many small ones are not free."""


class Quota:
    """Counts what each node sent since this process started, less what was accepted from it.

    Args:
        pending_bytes: most that one node may have pending.
    """

    def __init__(self, pending_bytes: int) -> None:
        self._most = pending_bytes
        self._pending: dict[str, int] = {}
        self._reserved: dict[str, dict[str, tuple[float, int]]] = {}
        """Of each node by blob: until when (monotonic), and bytes."""
        self._lock = threading.Lock()

    def check(self, node: str, more_bytes: int) -> None:
        """Raise `Refused` where so much more would be too much."""
        with self._lock:
            self._check(node, more_bytes)

    def _check(self, node: str, more_bytes: int) -> None:
        now = time.monotonic()
        left = {sha: each for sha, each in self._reserved.pop(node, {}).items() if each[0] > now}
        if left:
            self._reserved[node] = left
        pending = self._pending.get(node, 0) + sum(size + FILE_BYTES for _, size in left.values())
        if pending + more_bytes + FILE_BYTES > self._most:
            raise Refused(
                f"node {node} has sent {pending} bytes that no accepted contribution uses; "
                f"at most {self._most} are kept for it",
                hint="hand in the contribution they belong to, or ask the core's operator",
            )

    def reserve(self, node: str, sha: str, size: int, for_s: float) -> None:
        """A node may bring a blob past this process. That counts as sent until `forget` is called or the time
        is over. Raises as `check`."""
        with self._lock:
            self._reserved.get(node, {}).pop(sha, None)
            self._check(node, size)
            self._reserved.setdefault(node, {})[sha] = (time.monotonic() + for_s, size)

    def forget(self, node: str, sha: str) -> None:
        """The blob has come, or comes another way."""
        with self._lock:
            self._reserved.get(node, {}).pop(sha, None)

    def charge(self, node: str, sent_bytes: int) -> None:
        with self._lock:
            self._pending[node] = self._pending.get(node, 0) + sent_bytes + FILE_BYTES

    def release(self, node: str, sizes: Iterable[int]) -> None:
        """These blobs are part of an accepted contribution."""
        total = sum(size + FILE_BYTES for size in sizes)
        with self._lock:
            self._pending[node] = max(0, self._pending.get(node, 0) - total)
