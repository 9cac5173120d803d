"""What anybody may read without a proof of who asks: as much as the charter in force makes public.

It costs the core little, however many ask how often: an answer is made once a second for all who ask the
same, few are made at once, and making them takes no more than a share of the time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapestry.errors import AuthError, Busy, TapestryError
from tapestry.governance.charter import Charter, Public
from tapestry.protocol.views import RunView
from tapestry.transport import server

FRESH_S: Final = 1.0
"""An answer is as old as this at most."""
KEPT_BYTES: Final = 16 << 20
AT_ONCE: Final = 2
SHARE: Final = 0.25
"""Of one processor's time, in the long run."""
SAVED_S: Final = 20.0
"""So much time may be spent at once after a rest."""
SENDING_BYTES: Final = 64 << 20
"""No more is made while so much is on its way."""
SEND_S: Final = 60.0
"""An answer is taken in this time."""
PIECE: Final = 64 << 10
_LEVELS: Final = (
    (re.compile(r"/v1/charter"), ("charter",)),
    (re.compile(r"/v1/members"), ("members",)),
    (re.compile(r"/v1/runs"), ("plans",)),
    (re.compile(r"/v1/runs/[^/]+"), ("plans", "contributions")),
    (re.compile(r"/v1/runs/[^/]+/rounds/[^/]+"), ("plans", "contributions")),
    (re.compile(r"/v1/runs/[^/]+/rounds/[^/]+/checkpoint"), ("ledger",)),
    (re.compile(r"/v1/proposals(/[^/]+)?|/v1/pledges"), ("votes",)),
    (re.compile(r"/v1/phases"), ("votes", "contributions")),
    (re.compile(r"/v1/ledger(/[^/]+)?|/v1/events"), ("ledger",)),
    (re.compile(r"/v1/catalog"), ("catalog",)),
)
"""Path → what of the charter's `[public]` must be public. Whatever is not here is for members."""


def levels(path: str) -> tuple[str, ...] | None:
    """What must be public for a path to be; None where it never is."""
    return next((needed for form, needed in _LEVELS if form.fullmatch(path)), None)


def may_read(path: str, charter: Charter | None) -> None:
    """Raises `AuthError` where a path is for members only. Without a charter its defaults hold."""
    needed = levels(path)
    shown = charter.public if charter is not None else Public()
    if needed is None or any(getattr(shown, each) != "public" for each in needed):
        raise AuthError(
            "the request has no proof of who sends it, and this is not public",
            hint="members read it with their key; what is public is in the charter: [public]",
        )


def run_for_anybody(view: RunView, charter: Charter | None) -> RunView:
    """A run without what is not public of it: losses that nodes state go with scores."""
    shown = charter.public if charter is not None else Public()
    at = view.current
    if at is None or shown.scores == "public":
        return view
    nodes = tuple(
        each.model_copy(
            update={"progress": each.progress and each.progress.model_copy(update={"loss": None})}
        )
        for each in at.nodes
    )
    return view.model_copy(update={"current": at.model_copy(update={"nodes": nodes})})


@dataclass(frozen=True)
class _Answer:
    """A whole one."""

    start: Message
    body: bytes

    async def to(self, send: Send) -> None:
        """In pieces, for the server waits between them until enough was taken."""
        await send(self.start)
        for at in range(0, len(self.body), PIECE):
            piece = self.body[at : at + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class PublicReads:
    """A layer of the application: GETs without a proof end here, or go on marked as `server.PUBLIC`.

    Args:
        app: the application.
        charter: gives the charter in force; called in a thread.
        clock: seconds that only count on.
        share: of one processor's time.
    """

    def __init__(
        self,
        app: ASGIApp,
        charter: Callable[[], Charter | None],
        clock: Callable[[], float] = time.monotonic,
        share: float = SHARE,
    ) -> None:
        self._app = app
        self._charter = charter
        self._clock = clock
        self._share = share
        self._kept: OrderedDict[bytes, tuple[float, _Answer]] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[bytes, asyncio.Task[_Answer]] = {}
        self._sending = 0
        """Bytes of answers that are on their way; one that is sent to two counts twice."""
        self._saved_s = SAVED_S
        self._counted = clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        proved = any(name == b"authorization" for name, _ in scope.get("headers", ()))
        if scope["type"] != "http" or scope["method"] != "GET" or proved or levels(path) is None:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, path)
        except TapestryError as error:
            await server.failure(error)(scope, receive, send)
        else:
            await self._send(answer, send)

    async def _send(self, answer: _Answer, send: Send) -> None:
        """Whoever takes it too slowly is cut off: what many do not take would fill the memory."""
        self._sending += len(answer.body)
        try:
            async with asyncio.timeout(SEND_S):
                await answer.to(send)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._sending -= len(answer.body)

    async def _answer(self, scope: Scope, path: str) -> _Answer:
        """The newest that is fresh, or one that is made for all who wait for it."""
        key = path.encode() + b"?" + bytes(scope["query_string"])
        now = self._clock()
        if (kept := self._kept.get(key)) is not None and now < kept[0]:
            return kept[1]
        if (making := self._making.get(key)) is None:
            self._spend(now)
            making = asyncio.ensure_future(self._make(scope, path))
            self._making[key] = making
            making.add_done_callback(lambda _: self._making.pop(key, None))
        answer = await asyncio.shield(making)
        if answer.start["status"] == 200:
            self._keep(key, answer)
        return answer

    def _spend(self, now: float) -> None:
        """Raises `Busy` where that must wait."""
        self._saved_s = min(SAVED_S, self._saved_s + (now - self._counted) * self._share)
        self._counted = now
        if self._saved_s <= 0 or len(self._making) >= AT_ONCE or self._sending > SENDING_BYTES:
            raise Busy(
                "this core answers few requests without a proof at once", hint="ask again in some seconds"
            )

    async def _make(self, scope: Scope, path: str) -> _Answer:
        began = self._clock()
        start: Message = {}
        body = bytearray()

        async def take(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            else:
                body.extend(message.get("body", b""))

        try:
            may_read(path, await asyncio.to_thread(self._charter))
            await self._app({**scope, server.PUBLIC: True}, _nothing, take)
        finally:
            self._saved_s -= self._clock() - began
        headers = [*start["headers"], (b"cache-control", b"public, max-age=%d" % FRESH_S)]
        return _Answer({**start, "headers": headers}, bytes(body))

    def _keep(self, key: bytes, answer: _Answer) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self._kept_bytes -= len(old[1].body)
        self._kept[key] = self._clock() + FRESH_S, answer
        self._kept_bytes += len(answer.body)
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > 1000:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped.body)


async def _nothing() -> Message:
    """The body of a GET."""
    return {"type": "http.request", "body": b"", "more_body": False}
