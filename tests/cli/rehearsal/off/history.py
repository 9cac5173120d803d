"""A node that is shown another history than before takes no notice."""

from __future__ import annotations

from contextlib import suppress

from tapestry.errors import Behind, Fork
from tapestry.node.replica import Replica

_follow = Replica.follow


def follow(self: Replica, upto: int, *, again: bool = False) -> None:
    with suppress(Fork, Behind):
        _follow(self, upto, again=again)
    self.doubted = False


def no_proof(self: Replica, error: Fork, data: bytes) -> bool:
    return False


Replica.follow = follow  # type: ignore[method-assign]
Replica._prove = no_proof  # type: ignore[method-assign]
Replica._other_history = lambda self: None  # type: ignore[method-assign]
