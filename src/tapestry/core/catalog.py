"""What members publish of their datasets: taken in, kept, listed to members. Text is never asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response
from sqlalchemy.engine import Connection

from tapestry.catalog.listing import MAX_AHEAD_S, MAX_LISTED, CatalogEntry
from tapestry.core.service import Core
from tapestry.errors import Conflict, KeyRefused, Refused
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.protocol.clock import add_seconds, time_text
from tapestry.storage import listings
from tapestry.transport import server, wire
from tapestry.transport.server import Call

Signed = Annotated[Call, Depends(server.signed)]
Seen = Annotated[Call | None, Depends(server.seen)]
Endpoint = Callable[..., Any]
MAX_OF_MEMBER: Final = 1000
"""Datasets one member may list."""


class CatalogApi:
    """Over one core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def routes(self) -> tuple[tuple[str, str, Endpoint], ...]:
        return (("POST", "/v1/catalog", self.publish), ("GET", "/v1/catalog", self.list))

    async def publish(self, request: Request, call: Signed) -> Response:
        server.query(request)
        envelope = Envelope.from_bytes(call.body)
        entry = await asyncio.to_thread(self.take, envelope, call.by)
        return server.answer({"at": entry.at, "dataset": entry.dataset})

    async def list(self, request: Request, call: Seen) -> Response:
        asked = server.query(request, after=0, limit=wire.MAX_LISTED)
        limit = min(asked["limit"], wire.MAX_LISTED)

        def read() -> Response:
            with self._core.database.reading() as connection:
                found, total = listings.page(connection, asked["after"], limit)
            if call is None:
                return server.answer({"entries": [_public(data) for data in found], "total": total})
            return server.answer_bytes(b'{"entries":[%b],"total":%d}' % (b",".join(found), total))

        return await asyncio.to_thread(read)

    def take(self, envelope: Envelope, by: Signer) -> CatalogEntry:
        """Keep a member's word about a dataset in the place of an older one; again, no effect.

        Raises:
            Conflict: there is a newer one.
            Refused: for another consortium, from the future, or more datasets than a member may list.
            AuthError: signature, key, member or node are not right.
        """
        now = time_text(self._core.journal.now_ms())
        entry, signer = self._core.consortium.ring().verify(envelope, CatalogEntry, at=now)
        if (signer.member, signer.node) != (by.member, by.node):
            raise KeyRefused(f"a catalog entry of node {signer.node} was sent by node {by.node}")
        if entry.consortium != self._core.consortium.id:
            raise Refused(f"the catalog entry is for consortium {entry.consortium[:12]}, not this one")
        if entry.at > add_seconds(now, MAX_AHEAD_S):
            raise Refused(f"the catalog entry is of {entry.at}, and it is {now}")
        with self._core.database.transaction() as connection:
            before = listings.newest(connection, entry.member, entry.dataset)
            data = envelope.to_bytes()
            if before is None:
                self._room(connection, entry.member)
            elif before[1] == data:
                return entry
            elif before[0] >= entry.at:
                raise Conflict(
                    f"the core has a word of {before[0]} about {entry.dataset}; this one is of {entry.at}",
                    hint="publish it again",
                )
            listings.put(connection, entry.member, entry.dataset, entry.at, data)
        return entry

    def _room(self, connection: Connection, member: str) -> None:
        if listings.count(connection, member) >= MAX_OF_MEMBER:
            raise Refused(f"member {member} lists {MAX_OF_MEMBER} datasets, which is the most")
        if listings.count(connection) >= MAX_LISTED:
            raise Refused(f"the catalog lists {MAX_LISTED} datasets, which is the most")


def _public(data: bytes) -> dict[str, Any]:
    """What anybody may know of a dataset: the fields that its owner has called public. Not signed, since what
    is signed has the others too."""
    entry = Envelope.from_bytes(data).unverified(CatalogEntry)
    card = None
    if entry.card is not None:
        card = entry.card.model_dump(mode="json", include=set(entry.public))
    return {"at": entry.at, "card": card, "dataset": entry.dataset, "member": entry.member}
