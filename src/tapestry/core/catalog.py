"""What members publish of their datasets: taken in, kept, listed to members. Text is never asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response

from tapestry.catalog.listing import MAX_AHEAD_S, MAX_LISTED, CatalogEntry
from tapestry.core.newest import Newest
from tapestry.core.service import Core
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.storage import listings
from tapestry.transport import server
from tapestry.transport.server import Call

Signed = Annotated[Call, Depends(server.signed)]
Seen = Annotated[Call | None, Depends(server.seen)]
Endpoint = Callable[..., Any]
MAX_OF_MEMBER: Final = 1000
"""Datasets one member may list."""


class CatalogApi:
    """Over one core."""

    def __init__(self, core: Core) -> None:
        self._newest = Newest(
            core=core,
            kind=CatalogEntry,
            words=listings.DATASETS,
            name="dataset",
            what="the catalog entry",
            things="datasets",
            place="the catalog",
            ahead_s=MAX_AHEAD_S,
            most=lambda: (MAX_OF_MEMBER, MAX_LISTED),
        )

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (("POST", "/v1/catalog", self.publish), ("GET", "/v1/catalog", self.list))

    async def publish(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        entry = await asyncio.to_thread(self.take, envelope, call.by)
        return server.answer({"at": entry.at, "dataset": entry.dataset})

    async def list(self, request: Request, call: Seen) -> Response:
        return await self._newest.page(request, _public if call is None else None)

    def take(self, envelope: Envelope, by: Signer) -> CatalogEntry:
        """See `Newest.take`."""
        return self._newest.take(envelope, by)


def _public(data: bytes) -> dict[str, Any]:
    """What anybody may know of a dataset: the fields that its owner has called public. Not signed, since what
    is signed has the others too."""
    entry = Envelope.from_bytes(data).unverified(CatalogEntry)
    card = None
    if entry.card is not None:
        card = entry.card.model_dump(mode="json", include=set(entry.public))
    return {"at": entry.at, "card": card, "dataset": entry.dataset, "member": entry.member}
