"""Invitations: a random word that admits one member once. The core keeps only its hash."""

from __future__ import annotations

import secrets

from tapestry.protocol import canonical

TOKEN_BYTES = 32


def make_token() -> str:
    """A new invitation: 256 random bits as 43 characters that are safe in a URL."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """What is stored of an invitation. No salt is needed: the token cannot be guessed."""
    return canonical.sha256(token.encode("utf-8"))
