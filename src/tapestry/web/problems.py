"""What went wrong, as a page that says what to do, with the status that programs read."""

from __future__ import annotations

from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tapestry.errors import AuthError, NotFound, TapestryError, TooLarge, Unreachable
from tapestry.transport import wire
from tapestry.web.render import Ask, NotForYou, page
from tapestry.web.site import site_of

_TOLD: Final = {400: "bad", 401: "sign-in", 403: "members", 404: "missing", 405: "missing", 413: "large"}
"""Status → which text; any other: `failed`."""


def status_of(error: Exception) -> int:
    if isinstance(error, NotForYou):
        return 403
    if isinstance(error, Unreachable):
        return 503
    if isinstance(error, HTTPException):
        return error.status_code
    return wire.status_of(error) if isinstance(error, TapestryError) else 500


async def show(request: Request, error: Exception) -> Response:
    """The page of an error. Of one that was not foreseen nothing is told."""
    status = status_of(error)
    text = site_of(request).texts
    first = request.url.path.lstrip("/").partition("/")[0]
    language = first if first in text.catalogs else text.best(request.headers.get("accept-language", ""))
    told = isinstance(error, AuthError | NotFound | TooLarge) or status == 400
    message = error.message if told and isinstance(error, TapestryError) else None
    if "text/html" not in request.headers.get("accept", "text/html") and "*/*" not in request.headers.get(
        "accept", "*/*"
    ):
        return PlainTextResponse(message or "failed", status)
    ask = Ask(request, language)
    key = _TOLD.get(status, "gone" if status in (502, 503, 504) else "failed")
    return page(ask, "problem.html", status=status, key=key, code=status, message=message)
