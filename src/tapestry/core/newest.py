"""Signed words of members of which the newest counts: taken in, kept, listed. Not in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request, Response
from sqlalchemy.engine import Connection

from tapestry.core.service import Core
from tapestry.errors import Conflict, KeyRefused, Refused
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import Signer
from tapestry.protocol.clock import add_seconds, time_text
from tapestry.protocol.message import Message
from tapestry.storage.listings import Words
from tapestry.transport import server, wire

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Newest(Generic[M]):
    """One kind of them, at one core.

    Args:
        core: that keeps them.
        kind: the message.
        words: where they are kept.
        name: field with the name of the thing.
        what: how an error names the message; `things` those it is about, `place` all of them.
        ahead_s: it may be of a time so far ahead of the core's.
        most: how many a member may list, and all together.
    """

    core: Core
    kind: type[M]
    words: Words
    name: str
    what: str
    things: str
    place: str
    ahead_s: float
    most: Callable[[], tuple[int, int]]

    async def page(
        self, request: Request, shown: Callable[[bytes], dict[str, Any]] | None = None
    ) -> Response:
        """An answer to GET: envelopes as they are, or what `shown` leaves of each."""
        asked = server.query(request, after=0, limit=wire.MAX_LISTED)
        limit = min(asked["limit"], wire.MAX_LISTED)

        def read() -> Response:
            with self.core.database.reading() as connection:
                found, total = self.words.page(connection, asked["after"], limit)
            if shown is not None:
                return server.answer({"entries": [shown(data) for data in found], "total": total})
            return server.answer_bytes(b'{"entries":[%b],"total":%d}' % (b",".join(found), total))

        return await asyncio.to_thread(read)

    def take(self, envelope: Envelope, by: Signer) -> M:
        """Keep a member's word in the place of an older one; again, no effect.

        Raises:
            Conflict: there is a newer one.
            Refused: for another consortium, from the future, or more than a member may list.
            AuthError: signature, key, member or node are not right.
        """
        now = time_text(self.core.journal.now_ms())
        said, signer = self.core.consortium.ring().verify(envelope, self.kind, at=now)
        if (signer.member, signer.node) != (by.member, by.node):
            raise KeyRefused(f"{self.what} of node {signer.node} was sent by node {by.node}")
        consortium, at, name = (str(getattr(said, each)) for each in ("consortium", "at", self.name))
        if consortium != self.core.consortium.id:
            raise Refused(f"{self.what} is for consortium {consortium[:12]}, not this one")
        if at > add_seconds(now, self.ahead_s):
            raise Refused(f"{self.what} is of {at}, and it is {now}")
        with self.core.database.transaction() as connection:
            before = self.words.newest(connection, signer.member, name)
            data = envelope.to_bytes()
            if before is None:
                self._room(connection, signer.member)
            elif before[1] == data:
                return said
            elif before[0] >= at:
                raise Conflict(
                    f"the core has a word of {before[0]} about {name}; this one is of {at}",
                    hint="publish it again",
                )
            self.words.put(connection, signer.member, name, at, data)
        return said

    def _room(self, connection: Connection, member: str) -> None:
        of_member, in_all = self.most()
        if self.words.count(connection, member) >= of_member:
            raise Refused(f"member {member} lists {of_member} {self.things}, which is the most")
        if self.words.count(connection) >= in_all:
            raise Refused(f"{self.place} lists {in_all} {self.things}, which is the most")
