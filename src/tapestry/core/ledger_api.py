"""Endpoints of the ledger: its lines, its tree's heads, and proofs about them. Nobody has to believe them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from tapestry.core.proofs import Proofs
from tapestry.core.service import Core
from tapestry.errors import NotFound
from tapestry.transport import server
from tapestry.transport.server import Call

MAX_BYTES: Final = 8 << 20
"""Of one answer, about."""
Signed = Annotated[Call, Depends(server.signed)]
Seen = Annotated[Call | None, Depends(server.seen)]
"""None: somebody who needs no proof, since this is public."""
Endpoint = Callable[..., Any]


class LedgerApi:
    """Over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._proofs = Proofs(core.journal, core.consortium)

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (
            ("GET", "/v1/ledger", self.lines),
            ("GET", "/v1/ledger/checkpoint", self.checkpoint),
            ("GET", "/v1/ledger/inclusion", self.inclusion),
            ("GET", "/v1/ledger/consistency", self.consistency),
            ("GET", "/v1/runs/{run}/rounds/{round}/checkpoint", self.cosigned),
        )

    async def lines(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, after=0)

        def read() -> bytes:
            return b"".join(self._proofs.written(self._core.store, asked["after"], MAX_BYTES))

        return Response(await asyncio.to_thread(read), media_type=server.LINES)

    async def checkpoint(self, request: Request, call: Seen) -> Response:
        server.query(request)
        note = await asyncio.to_thread(self._proofs.checkpoint)
        return Response(note, media_type=server.NOTE)

    async def cosigned(self, request: Request, run: str, round: str, call: Seen) -> Response:
        server.query(request)
        note = await asyncio.to_thread(self._proofs.cosigned, self._core.store, run, number(round))
        return Response(note, media_type=server.NOTE)

    async def inclusion(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, sequence=0, size=0)
        proof = await asyncio.to_thread(self._proofs.inclusion, asked["sequence"], asked["size"])
        return server.answer(proof)

    async def consistency(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, old=0, new=0)
        return server.answer(await asyncio.to_thread(self._proofs.consistency, asked["old"], asked["new"]))


def number(round: str) -> int:
    """Of a round, from a path. Raises `NotFound`."""
    if not (round.isascii() and round.isdigit() and len(round) <= 13):
        raise NotFound("that is not the number of a round")
    return int(round)
