"""What client and server share: header names, limits, the shape of errors. See docs/formats/http.md."""

from __future__ import annotations

import json
from typing import Any, Final

from tapestry.errors import (
    AuthError,
    Conflict,
    DiskFull,
    InfeasibleCap,
    InputError,
    IntegrityError,
    InvitationError,
    NotFound,
    ProtocolError,
    Refused,
    ResourceError,
    TapestryError,
    TooLarge,
    UnknownMember,
    by_code,
)
from tapestry.protocol import canonical

TIME_HEADER: Final = "Tapestry-Time"
AUTH_SCHEME: Final = "Tapestry"
DIRECT_HEADER: Final = "Tapestry-Direct"
"""Of a request: its sender can fetch from an object store. Of an answer: it says where to."""
MAX_DIRECT_BYTES: Final = 16 << 10
"""Of an answer with a signed URL."""
CHUNK_BYTES: Final = 8 << 20
"""Bytes of a blob in one request, unless a client is told otherwise."""
LONG_POLL_S: Final = 25.0
MAX_BODY_BYTES: Final = canonical.MAX_MESSAGE_BYTES
MAX_MISSING_BYTES: Final = 8 << 20
MAX_MISSING: Final = 100_000
MAX_EVENTS: Final = 1000
MAX_LISTED: Final = 256
"""Entries of the catalog in one answer."""
EMPTY_SHA256: Final = canonical.sha256(b"")

STATUS: Final[dict[type[TapestryError], int]] = {
    TapestryError: 500,
    InputError: 400,
    IntegrityError: 400,
    AuthError: 401,
    UnknownMember: 403,
    InvitationError: 403,
    ProtocolError: 409,
    Conflict: 409,
    NotFound: 404,
    Refused: 422,
    InfeasibleCap: 422,
    TooLarge: 413,
    ResourceError: 503,
    DiskFull: 507,
}
"""HTTP status of an error class; a class that is not listed has its nearest base's."""

MAX_TEXT = 2000


def is_size(text: str) -> bool:
    """Whether a text is a number of bytes, such as a Content-Length: ASCII digits, not thousands of them."""
    return text.isascii() and text.isdigit() and len(text) <= 18


def status_of(error: TapestryError) -> int:
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def error_body(error: TapestryError, **more: Any) -> bytes:
    """The canonical JSON of an error; `more` are JSON values beside it."""
    hint = None if error.hint is None else _plain(error.hint)
    told = {"code": error.code, "message": _plain(error.message), "hint": hint}
    return canonical.encode({"error": told, **more})


def read_error(status: int, body: bytes) -> tuple[TapestryError, dict[str, Any]]:
    """The error in an answer, and the fields beside it. Never raises, whatever the other side sent."""
    try:
        value = json.loads(body)
        told = value.pop("error")
        code, message, hint = told["code"], told["message"], told.get("hint")
        if not (isinstance(code, str) and isinstance(message, str) and isinstance(hint, str | None)):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return TapestryError(f"the other side answered {status} without saying why"), {}
    return by_code(code)(_plain(message), hint=None if hint is None else _plain(hint)), value


def _plain(text: str) -> str:
    """Foreign text, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])
