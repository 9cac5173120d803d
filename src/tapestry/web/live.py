"""Server-sent events: a part of a page, sent anew when it has changed; made once for all who see the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tapestry.errors import Busy
from tapestry.web.bell import Bell

BEAT_S: Final = 15.0
"""A comment at least so often: proxies and browsers learn that the line is alive."""
GAP_S: Final = 2.0
"""Between two sendings."""
LIFE_S: Final = 1800.0
"""A browser that is still there comes again."""
KIND: Final = "text/event-stream"


class Live:
    """All streams of a dashboard.

    Args:
        bell: rung when something is known anew.
        most: streams at once.
    """

    def __init__(self, bell: Bell, most: int) -> None:
        self._bell = bell
        self._most = most
        self.open = 0
        self.closed = False
        """Every stream ends soon: the server stops."""
        self._made: dict[tuple[str, ...], tuple[int, float, str]] = {}

    def stream(
        self,
        request: Request,
        key: tuple[str, ...],
        make: Callable[[], str],
        may: Callable[[], bool] = lambda: True,
    ) -> Response:
        """A stream of what `make` gives, which is the same for all streams of one key, for as long as whoever
        looks `may`: it outlasts a session by half an hour else. Raises `Busy`."""
        if self.open >= self._most:
            raise Busy(
                "this dashboard has as many live views as it can hold", hint="this page stays as it is"
            )
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(request, key, make, may), headers=headers, media_type=KIND)

    def close(self) -> None:
        self.closed = True
        self._bell.ring()

    async def _events(
        self, request: Request, key: tuple[str, ...], make: Callable[[], str], may: Callable[[], bool]
    ) -> AsyncIterator[str]:
        self.open += 1
        ends = time.monotonic() + LIFE_S
        sent = ""
        try:
            yield "retry: 3000\n\n"
            while time.monotonic() < ends and not self.closed and not await request.is_disconnected():
                if not may():
                    break
                seen = self._bell.count
                text = self._text(key, make)
                if text != sent:
                    sent = text
                    yield message(text)
                await asyncio.sleep(GAP_S)
                if not await self._bell.heard(seen, BEAT_S - GAP_S):
                    yield ": still here\n\n"
        finally:
            self.open -= 1

    def _text(self, key: tuple[str, ...], make: Callable[[], str]) -> str:
        now = time.monotonic()
        made = self._made.get(key)
        if (
            made is None
            or (made[0] != self._bell.count and now - made[1] > GAP_S / 2)
            or now - made[1] > BEAT_S
        ):
            if len(self._made) > 500:
                self._made.clear()
            made = self._made[key] = self._bell.count, now, make()
        return made[2]


def message(text: str) -> str:
    """As the stream writes it."""
    return "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
