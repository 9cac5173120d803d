"""The newest word of each member about each of its datasets; unlike events, one replaces another."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.storage.database import listings


def newest(connection: Connection, member: str, dataset: str) -> tuple[str, bytes] | None:
    """Time and envelope of what was said last."""
    query = sa.select(listings.c.at, listings.c.envelope).where(
        listings.c.member == member, listings.c.dataset == dataset
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (str(row.at), bytes(row.envelope))


def count(connection: Connection, member: str | None = None) -> int:
    """Datasets that a member, or all of them, have spoken of."""
    query = sa.select(sa.func.count()).select_from(listings)
    if member is not None:
        query = query.where(listings.c.member == member)
    return int(connection.execute(query).scalar_one())


def put(connection: Connection, member: str, dataset: str, at: str, envelope: bytes) -> None:
    """Take the place of what was said before."""
    row = {"member": member, "dataset": dataset, "at": at, "envelope": envelope}
    where = (listings.c.member == member, listings.c.dataset == dataset)
    if connection.execute(sa.update(listings).where(*where).values(row)).rowcount == 0:
        connection.execute(sa.insert(listings).values(row))


def page(connection: Connection, after: int, limit: int) -> tuple[list[bytes], int]:
    """Envelopes by member and dataset, from a position on, and how many there are in all."""
    query = sa.select(listings.c.envelope).order_by(listings.c.member, listings.c.dataset)
    rows = connection.execute(query.offset(after).limit(limit))
    return [bytes(row.envelope) for row in rows], count(connection)
