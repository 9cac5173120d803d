"""What many viewers are shown is worked out once, for whoever asks first, and again when it has changed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

T = TypeVar("T")
MOST: Final = 256
"""Results that are held; the one asked for longest ago goes first. Each is about one page of something."""


@dataclass(frozen=True)
class _Held:
    made_of: tuple[object, ...]
    made_s: float
    task: asyncio.Task[Any]


class Shared:
    """Of one dashboard, on its server's loop. Who may see a result is asked before, each time.

    Args:
        most: results that are held.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._made: OrderedDict[Hashable, _Held] = OrderedDict()

    async def of(
        self, name: Hashable, made_of: tuple[object, ...], make: Callable[[], T], *, fresh_s: float = 0.0
    ) -> T:
        """What `make` gives, called in a thread; whoever asks meanwhile waits for the same.

        Args:
            name: what it is, with all that it depends on but `made_of`.
            made_of: numbers, texts, and things that are replaced and never changed; when one of them is
                another than before, it is worked out anew.
            fresh_s: but not where it was begun less than so long ago: what changes all the time would be
                worked out for every viewer.
        """
        held = self._made.get(name)
        now = time.monotonic()
        if held is None or not (now - held.made_s < fresh_s or _same(held.made_of, made_of)):
            task = asyncio.ensure_future(asyncio.to_thread(make))
            held = self._made[name] = _Held(made_of, now, task)
            while len(self._made) > self._most:
                self._made.popitem(last=False)
        self._made.move_to_end(name)
        try:
            found: T = await asyncio.shield(held.task)
        except BaseException:
            if held.task.done() and self._made.get(name) is held:
                del self._made[name]  # what failed may go well the next time
            raise
        return found

    def __len__(self) -> int:
        return len(self._made)


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Large things by which they are, not by what is in them."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, int | str | bytes | tuple) and type(a) is type(b) and a == b)
        for a, b in zip(one, other, strict=True)
    )
