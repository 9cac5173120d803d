"""Server-sent events: a part of a page, sent anew when it has changed; made once for all who see the same."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tapestry.web.bell import Bell
from tapestry.web.holders import MACHINE
from tapestry.web.shared import Shared

BEAT_S: Final = 15.0
"""A comment at least so often: proxies and browsers learn that the line is alive."""
GAP_S: Final = 2.0
"""Between two sendings."""
LIFE_S: Final = 1800.0
"""A browser that is still there comes again."""
KIND: Final = "text/event-stream"
RETRY_S: Final = 3
"""A browser whose stream has ended comes again after so long."""
CROWDED_S: Final = 30
"""And one that was told to wait."""
OWN_PART: Final = 0.75
"""Of all streams, that this machine itself may have: behind it may be a proxy that says nothing of others."""


class Live:
    """All streams of a dashboard.

    Args:
        bell: rung when something is known anew.
        shared: what is sent, worked out once for all who are sent it.
        most: streams at once.
        each: of one holder, which this machine itself is not; all, where it is None.
    """

    def __init__(self, bell: Bell, shared: Shared, most: int, each: int | None = None) -> None:
        self._bell = bell
        self._shared = shared
        self._most = most
        self._each = each
        self._held: Counter[str] = Counter()
        self.open = 0
        self.closed = False
        """Every stream ends soon: the server stops."""

    def stream(
        self,
        request: Request,
        key: tuple[Hashable, ...],
        make: Callable[[], str],
        may: Callable[[], bool] = lambda: True,
        *,
        holder: str = MACHINE,
        crowded: Callable[[], str] = lambda: "",
    ) -> Response:
        """A stream of what `make` gives, which is the same for all streams of one key, for as long as whoever
        looks `may`: it outlasts a session by half an hour else. Where there are as many as may be, it has
        what there is now, below what `crowded` says of that, and ends: the browser asks again."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = self._bounded(request, key, make, may, holder, crowded)
        return StreamingResponse(events, headers=headers, media_type=KIND)

    def close(self) -> None:
        self.closed = True
        self._bell.ring()

    def _room(self, holder: str) -> bool:
        if self._each is None:
            own = self._most
        else:
            own = max(1, int(self._most * OWN_PART)) if holder == MACHINE else self._each
        return self.open < self._most and self._held[holder] < own

    async def _bounded(
        self,
        request: Request,
        key: tuple[Hashable, ...],
        make: Callable[[], str],
        may: Callable[[], bool],
        holder: str,
        crowded: Callable[[], str],
    ) -> AsyncIterator[str]:
        if not self._room(holder):
            yield message(crowded() + await self.text(key, make), retry_s=CROWDED_S)
            return
        self.open += 1
        self._held[holder] += 1
        try:
            async for each in self._events(request, key, make, may):
                yield each
        finally:
            self.open -= 1
            self._held[holder] -= 1
            self._held += Counter()  # those that have none are forgotten

    async def _events(
        self, request: Request, key: tuple[Hashable, ...], make: Callable[[], str], may: Callable[[], bool]
    ) -> AsyncIterator[str]:
        ends = time.monotonic() + LIFE_S
        sent = ""
        while time.monotonic() < ends and not self.closed and not await request.is_disconnected():
            if not may():
                break
            seen, text = await self._made(key, make)
            if text != sent:
                sent = text
                yield message(text, retry_s=RETRY_S)
            await asyncio.sleep(GAP_S)
            if not await self._bell.heard(seen, BEAT_S - GAP_S):
                yield ": still here\n\n"

    async def text(self, key: tuple[Hashable, ...], make: Callable[[], str]) -> str:
        """What a stream of this key is sent now."""
        return (await self._made(key, make))[1]

    async def _made(self, key: tuple[Hashable, ...], make: Callable[[], str]) -> tuple[int, str]:
        """With how often the bell had been rung before it was made."""
        count = self._bell.count
        made_of = count, int(time.monotonic() // BEAT_S)
        return await self._shared.of(("live", *key), made_of, lambda: (count, make()), fresh_s=GAP_S / 2)


def message(text: str, *, retry_s: int) -> str:
    """As the stream writes it; the browser hears when to come again with it, or not at all."""
    return f"retry: {retry_s * 1000}\n" + "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
