"""Signing in and out. `tapestry web login` asks the first two, a browser the others; see `session`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tapestry.errors import AuthError, Busy, NotFound, TapestryError
from tapestry.identity.envelope import Envelope
from tapestry.transport import server
from tapestry.web.cookies import cookie_name, core_time
from tapestry.web.known import Known
from tapestry.web.origins import origin_asked
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page
from tapestry.web.session import CHALLENGE_S, LINK_S, LONGEST_S
from tapestry.web.site import site_of

MAX_ANSWER_BYTES: Final = 16 << 10
MAX_TOKEN: Final = 64
NOT_KEPT: Final = {"Cache-Control": "no-store"}
"""Their address is told to this server alone, as every page's is. Were it told to nobody, a browser would
post from them with the origin `null`."""
Endpoint = Callable[[Request], Awaitable[Response]]


# -- for the command -------------------------------------------------------------------------------


async def challenge(request: Request) -> Response:
    """Something to sign, for whoever asks."""
    try:
        site, origin = site_of(request), _origin(request)
        if await server.read_body(request, 0):
            raise AuthError("this takes no body")
        given = site.sessions.challenge(origin, time.time())
        return server.answer({"challenge": given, "origin": origin, "seconds": int(CHALLENGE_S)})
    except TapestryError as error:
        return server.failure(error)


async def answer(request: Request) -> Response:
    """The token of a link, for a challenge that a member has signed."""
    try:
        site, origin = site_of(request), _origin(request)
        envelope = Envelope.from_bytes(await server.read_body(request, MAX_ANSWER_BYTES))
        known = site.known()
        token = site.sessions.answer(
            envelope,
            known.assembly.ring,
            consortium=_consortium(known),
            origin=origin,
            at=core_time(known),
            now=time.time(),
        )
        return server.answer({"seconds": int(LINK_S), "token": token})
    except TapestryError as error:
        return server.failure(error)


# -- for browsers ----------------------------------------------------------------------------------


async def link(request: Request) -> Response:
    """The link as the command prints it: to the page in the browser's language."""
    language = site_of(request).texts.best(request.headers.get("accept-language", ""))
    token = _token(request)
    return RedirectResponse(f"/{language}/login/{token}", 307, {"Vary": "Accept-Language", **NOT_KEPT})


async def how(request: Request) -> Response:
    """How to sign in, with the command to run."""
    ask = Ask(request)
    return page(ask, "login.html", origin=origin_asked(ask.site.settings, request), member=None)


async def confirm(request: Request) -> Response:
    """Whoever opens a link is told whose it is before it does anything: nobody is signed in as somebody else
    by a link that came by mail, and what looks at links in advance uses none up."""
    ask = Ask(request)
    member = ask.site.sessions.whose(_token(request), time.time())
    shown = page(ask, "login.html", origin=_origin(request), member=member)
    shown.headers.update(NOT_KEPT)
    return shown


async def enter(request: Request) -> Response:
    """A session for a link."""
    ask = Ask(request)
    cookie = ask.site.sessions.enter(_token(request), time.time())
    gone = RedirectResponse(ask.href("/desk"), 303, NOT_KEPT)
    _set(gone, _origin(request), cookie, int(LONGEST_S))
    return gone


async def leave(request: Request) -> Response:
    ask = Ask(request)
    origin = _origin(request)
    ask.site.sessions.leave(request.cookies.get(cookie_name(origin)))
    gone = RedirectResponse(ask.href("/"), 303, {**NOT_KEPT, "Clear-Site-Data": '"cache"'})
    _set(gone, origin, "", 0)
    return gone


PLAIN: Final[tuple[tuple[str, str, Endpoint], ...]] = (
    ("POST", "/login/challenge", challenge),
    ("POST", "/login/answer", answer),
    ("GET", "/login/{token}", link),
)
"""Without a language in their path."""
ROUTES = (
    Route("/login", how),
    Route("/login/{token}", confirm),
    Route("/login/{token}", enter, "POST"),
    Route("/leave", leave, "POST"),
)


def _consortium(known: Known) -> str:
    if known.hello is None:
        raise Busy("this dashboard has not heard of the core yet", hint="wait a little, and ask again")
    return known.hello.consortium


def _origin(request: Request) -> str:
    found = origin_asked(site_of(request).settings, request)
    if found is None:
        raise AuthError(
            "nobody can sign in under this address",
            hint="it needs https, or this machine's own name; start it with: tapestry web --origin URL",
        )
    return found


def _token(request: Request) -> str:
    token = str(request.path_params["token"])
    if len(token) > MAX_TOKEN or not token.replace("-", "").replace("_", "").isalnum() or not token.isascii():
        raise NotFound("there is nothing at this address")
    return token


def _set(response: Response, origin: str, cookie: str, seconds: int) -> None:
    response.set_cookie(
        cookie_name(origin),
        cookie,
        max_age=seconds,
        path="/",
        secure=origin.startswith("https://"),
        httponly=True,
        samesite="strict",
    )
