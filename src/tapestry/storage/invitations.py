"""Invitations: one-time tokens, of which only the hash is kept."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.errors import InvitationError
from tapestry.storage.database import invitations


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    member: str
    expires: str
    used_at: str | None


def add(connection: Connection, token_hash: str, member: str, expires: str) -> None:
    connection.execute(sa.insert(invitations).values(token=token_hash, member=member, expires=expires))


def listed(connection: Connection) -> list[Invitation]:
    """All invitations, oldest expiry first; without their tokens."""
    rows = connection.execute(sa.select(invitations).order_by(invitations.c.expires, invitations.c.member))
    return [Invitation(member=r.member, expires=r.expires, used_at=r.used_at) for r in rows]


def use(connection: Connection, token_hash: str, member: str, at: str) -> None:
    """Spend an invitation.

    Args:
        token_hash: of the token that the member gave.
        member: who wants in; must be whom the invitation names.
        at: the core's time, in the one form all times have, so that text compares as time does.

    Raises:
        InvitationError: unknown, for somebody else, expired, or spent already.
    """
    row = connection.execute(sa.select(invitations).where(invitations.c.token == token_hash)).one_or_none()
    if row is None or row.member != member:
        raise InvitationError(f"this invitation does not admit member {member}", hint="ask the core for one")
    if row.used_at is not None:
        raise InvitationError("this invitation was used already", hint="ask the core for a new one")
    if row.expires <= at:
        raise InvitationError(f"this invitation expired at {row.expires}", hint="ask the core for a new one")
    connection.execute(sa.update(invitations).where(invitations.c.token == row.token).values(used_at=at))
