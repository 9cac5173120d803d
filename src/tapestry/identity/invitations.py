"""Invitations: a random word that admits one member once. The core keeps only its hash."""

from __future__ import annotations

import re
import secrets
from typing import Final

from tapestry.errors import InvitationError
from tapestry.protocol import canonical

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
