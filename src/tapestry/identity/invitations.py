"""Invitations: a random word that admits one member once, and the request that brings it. The core keeps only
its hash."""

from __future__ import annotations

import re
import secrets
from typing import Final

from tapestry.errors import InvitationError, SignatureError
from tapestry.identity.envelope import Envelope
from tapestry.protocol import canonical
from tapestry.protocol.messages import Join

TOKEN_BYTES = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")


def make_token() -> str:
    """A new invitation: 256 random bits as 43 characters that are safe in a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """What is stored of an invitation. No salt is needed: the token cannot be guessed."""
    return canonical.sha256(token.encode("utf-8"))


def check_token(token: str) -> None:
    """Raise `InvitationError` for what cannot be an invitation. The word itself is not repeated."""
    if _TOKEN.fullmatch(token) is None:
        raise InvitationError(
            f"that is no invitation: {len(token)} characters, or some that no invitation has",
            hint="copy the whole line that `tapestry core invite` printed",
        )


def open_join(envelope: Envelope, consortium: str) -> Join:
    """A request for admission, signed by the very key it brings.

    The one message that is parsed before its signature is verified, since the key is inside. The
    signature shows that the sender holds the key; that it may join is what the invitation shows.

    Raises:
        SignatureError: not signed by the key it names, or meant for another consortium.
        FormatError: not a valid `Join`.
    """
    join = envelope.unverified(Join)
    envelope.open_as(Join, join.root_key)
    if join.consortium != consortium:
        raise SignatureError(
            f"the request to join is for consortium {join.consortium[:16]}, this one is {consortium[:16]}",
            hint="join again with the invitation and address of this consortium",
        )
    return join
