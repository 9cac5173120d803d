"""The Authorization header: a signed statement of which request this is, to whom, and when.

Someone who sees one can repeat only that same request, and only for five minutes; requests are
idempotent, so that changes nothing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from tapestry.errors import FormatError, SignatureError, TooLarge
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import NODE_ONLY, KeyRing, Role, Signer
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import seconds_between
from tapestry.protocol.message import explain
from tapestry.protocol.messages import RequestProof

SCHEME: Final = "Tapestry"
MAX_HEADER_BYTES: Final = 4096
WINDOW_S: Final = 300.0


def make_proof(keypair: KeyPair, *, consortium: str, method: str, target: str, body_sha: str, at: str) -> str:
    """The value of the Authorization header of one request.

    Args:
        keypair: the node's key.
        consortium: its id.
        method: GET, HEAD, POST or PUT.
        target: path and query, as sent.
        body_sha: SHA-256 of the body; of no bytes where there is none.
        at: the core's time, as reckoned from its last answer.

    Raises:
        FormatError: a part that no proof can state.
        TooLarge: `target` is too long (about 1,700 bytes fit).
    """
    try:
        proof = RequestProof.model_validate(
            {"consortium": consortium, "method": method, "target": target, "body": body_sha, "at": at}
        )
    except ValidationError as e:
        raise FormatError(f"request cannot be signed: {explain(e)}") from e
    token = base64.urlsafe_b64encode(sign(proof, keypair).to_bytes()).rstrip(b"=").decode("ascii")
    header = f"{SCHEME} {token}"
    if len(header) > MAX_HEADER_BYTES:
        raise TooLarge(f"the Authorization header for {target[:80]} is over {MAX_HEADER_BYTES} bytes")
    return header


def check_proof(
    header: str,
    ring: KeyRing,
    consortium: str,
    method: str,
    target: str,
    body_sha: str,
    now: str,
    *,
    sequence: int | None = None,
    roles: Collection[Role] = NODE_ONLY,
) -> Signer:
    """Who sent a request, from its Authorization header.

    Args:
        header: as received.
        ring: keys valid now.
        consortium, method, target, body_sha: of the request as received.
        now: the core's time.
        sequence: as for `KeyRing.verify`.
        roles: kinds of key that may ask.

    Raises:
        TooLarge: over 4 KiB; nothing was parsed.
        FormatError: not a proof.
        SignatureError: for another request, or from another time.
        UnknownMember, KeyRefused: as `KeyRing.verify`.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise TooLarge(f"the Authorization header has over {MAX_HEADER_BYTES} bytes")
    scheme, _, token = header.partition(" ")
    if scheme != SCHEME:
        raise FormatError(f"the Authorization header does not start with {SCHEME}")
    envelope = Envelope.from_bytes(_decode(token))
    proof, signer = ring.verify(envelope, RequestProof, at=now, sequence=sequence, roles=roles)
    for field, stated, actual in (
        ("consortium", proof.consortium, consortium),
        ("method", proof.method, method),
        ("target", proof.target, target),
        ("body", proof.body, body_sha),
    ):
        if stated != actual:
            raise SignatureError(f"the request's proof is for another {field}")
    if abs(seconds_between(proof.at, now)) > WINDOW_S:
        raise SignatureError(
            f"the request was signed for {proof.at}, and it is {now}",
            hint="take the time from the Tapestry-Time header of the last answer and sign again",
        )
    return signer


def _decode(token: str) -> bytes:
    """Base64url without padding, in its one form."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise FormatError("the Authorization header is not base64url") from e
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != token:
        raise FormatError("the Authorization header is not in the one canonical form of base64url")
    return data
