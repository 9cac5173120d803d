"""The newest word of each member about each of its things; unlike events, one replaces another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.storage.database import derivatives, listings


@dataclass(frozen=True)
class Words:
    """Of one kind of things.

    Args:
        table: that keeps them.
        column: with a thing's name.
    """

    table: sa.Table
    column: str

    def newest(self, connection: Connection, member: str, name: str) -> tuple[str, bytes] | None:
        """Time and envelope of what was said last."""
        query = sa.select(self.table.c.at, self.table.c.envelope).where(*self._where(member, name))
        row = connection.execute(query).one_or_none()
        return None if row is None else (str(row.at), bytes(row.envelope))

    def count(self, connection: Connection, member: str | None = None) -> int:
        """Things that a member, or all of them, have spoken of."""
        query = sa.select(sa.func.count()).select_from(self.table)
        if member is not None:
            query = query.where(self.table.c.member == member)
        return int(connection.execute(query).scalar_one())

    def put(self, connection: Connection, member: str, name: str, at: str, envelope: bytes) -> None:
        """Take the place of what was said before."""
        row = {"member": member, self.column: name, "at": at, "envelope": envelope}
        update = sa.update(self.table).where(*self._where(member, name)).values(row)
        if connection.execute(update).rowcount == 0:
            connection.execute(sa.insert(self.table).values(row))

    def page(self, connection: Connection, after: int, limit: int) -> tuple[list[bytes], int]:
        """Envelopes by member and name, from a position on, and how many there are in all."""
        query = sa.select(self.table.c.envelope).order_by(self.table.c.member, self.table.c[self.column])
        rows = connection.execute(query.offset(after).limit(limit))
        return [bytes(row.envelope) for row in rows], self.count(connection)

    def _where(self, member: str, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return self.table.c.member == member, self.table.c[self.column] == name


DATASETS: Final = Words(listings, "dataset")
DERIVATIVES: Final = Words(derivatives, "derivative")
