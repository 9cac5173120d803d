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
    task: asyncio.Task[Any]
    ended: list[float]
    """When, by a clock that only counts on."""

    def fresh(self, fresh_s: float) -> bool:
        return not self.ended or time.monotonic() - self.ended[0] < fresh_s


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
            made_of: numbers, texts, and things that are replaced and never changed; a thing that changes
                comes with a number that does. When one of them is another, it is worked out anew.
            fresh_s: but not where that is still going on, or ended less than so long ago: what changes all
                the time would be worked out for every viewer. With 0 it always is.
        """
        held = self._made.get(name)
        if held is None or not (_same(held.made_of, made_of) or (fresh_s and held.fresh(fresh_s))):
            held = self._made[name] = _Held(made_of, asyncio.ensure_future(asyncio.to_thread(make)), [])
            ended = held.ended
            held.task.add_done_callback(lambda _: ended.append(time.monotonic()))
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

    def clear(self) -> None:
        """Forget all of it; whoever waits for something still gets that."""
        self._made.clear()

    def __len__(self) -> int:
        return len(self._made)


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Large things by which they are, not by what is in them."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, int | str | bytes | tuple) and type(a) is type(b) and a == b)
        for a, b in zip(one, other, strict=True)
    )
