"""What owners show of their derivatives: taken in, kept, listed to members. Weights are never asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from tapestry.core.newest import Newest
from tapestry.core.service import Core
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.protocol import derivative
from tapestry.protocol.derivative import DerivativeRecord
from tapestry.storage import listings
from tapestry.transport import server
from tapestry.transport.server import Call

Signed = Annotated[Call, Depends(server.signed)]
Endpoint = Callable[..., Any]


class DerivativesApi:
    """Over one core."""

    def __init__(self, core: Core) -> None:
        self._newest = Newest(
            core=core,
            kind=DerivativeRecord,
            words=listings.DERIVATIVES,
            name="derivative",
            what="the record of a derivative",
            things="derivatives",
            place="the registry",
            ahead_s=derivative.MAX_AHEAD_S,
            most=lambda: (derivative.MAX_OF_MEMBER, derivative.MAX_LISTED),
        )

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (("POST", "/v1/derivatives", self.publish), ("GET", "/v1/derivatives", self.list))

    async def publish(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        record = await asyncio.to_thread(self.take, envelope, call.by)
        return server.answer({"at": record.at, "derivative": record.derivative})

    async def list(self, request: Request, call: Signed) -> Response:
        return await self._newest.page(request)

    def take(self, envelope: Envelope, by: Signer) -> DerivativeRecord:
        """See `Newest.take`."""
        return self._newest.take(envelope, by)
