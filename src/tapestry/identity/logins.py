"""Signing in to a dashboard: a member's vote key answers a challenge, for one dashboard and a few minutes.

The vote key is the right one: whoever speaks for the member holds it, and it lies on no node. What it signs
here is of a type of its own (the envelope's), so no answer to a challenge is ever a ballot. The origin is
signed as the member typed it, not as a server states it: what a false dashboard is given opens no other.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from tapestry.errors import FormatError, InputError, SignatureError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, Role, Signer
from tapestry.identity.keys import KeyPair
from tapestry.protocol.message import explain
from tapestry.protocol.messages import WebLogin

VOTE_ONLY: Final[frozenset[Role]] = frozenset({"vote"})
_PORTS: Final = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """Scheme, host and port of an address, as a browser would state them. Raises `InputError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise InputError(f"{url[:200]!r} is no address of a dashboard: {e}") from e
    if parts.scheme not in _PORTS or not host or parts.username is not None or not host.isascii():
        raise InputError(
            f"{url[:200]!r} is no address of a dashboard",
            hint="give it as in the browser's address line, e.g. http://127.0.0.1:8500",
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def make_login(keypair: KeyPair, *, consortium: str, origin: str, challenge: str, member: str) -> Envelope:
    """A member's answer to a challenge. Raises `FormatError` for a challenge or an origin that is none."""
    try:
        said = WebLogin(consortium=consortium, origin=origin, challenge=challenge, member=member)
    except ValidationError as e:
        raise FormatError(f"a sign-in cannot be signed: {explain(e)}") from e
    return sign(said, keypair)


def check_login(
    envelope: Envelope, ring: KeyRing, *, consortium: str, origin: str, at: str
) -> tuple[WebLogin, Signer]:
    """Who signs in. Whether the challenge was given, and is still good, is for the caller.

    Args:
        envelope: as received.
        ring: keys valid now.
        consortium, origin: of the dashboard that was asked.
        at: the core's time.

    Raises:
        SignatureError: for another dashboard or consortium, or a signature that does not verify.
        FormatError, UnknownMember, KeyRefused: as `KeyRing.verify`.
    """
    said, signer = ring.verify(envelope, WebLogin, at=at, roles=VOTE_ONLY)
    for field, stated, actual in (
        ("dashboard", said.origin, origin),
        ("consortium", said.consortium, consortium),
    ):
        if stated != actual:
            raise SignatureError(
                f"the sign-in was signed for another {field}",
                hint="give the dashboard's address as in the browser's address line",
            )
    return said, signer
