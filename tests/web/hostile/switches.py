"""Checks of the dashboard, each with a way to turn it off for the controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tapestry.identity import envelope, keyring
from tapestry.identity.envelope import Envelope
from tapestry.transport import server
from tapestry.web import headers, render, session, site
from tapestry.web.pages import decisions, mine
from tapestry.web.render import Ask
from tapestry.web.viewers import Viewer
from tests.web.hostile.scene import Scene

Off = Callable[[Scene], AbstractContextManager[Any]]
BOB: Final = Viewer(roles=frozenset({"public", "member", "steward", "auditor"}), member="bob")


def origin(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(headers, "SAFE", headers.METHODS)


def host(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(headers, "_name", lambda _host: "localhost")


def cookie(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(site, "who", lambda *_: BOB)


def expiry(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(session, "_over", lambda *_: False)


def leaving(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(session.Sessions, "leave", lambda *_: None)


def key_holds(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(session, "key_holds", lambda *_: True)


@contextmanager
def challenge(_: Scene) -> Iterator[None]:
    """Neither given here, nor in time, nor once."""

    def given(self: session.Sessions, told: str, *_kept: Any) -> bytes:
        self._answered.clear()
        return told.encode()

    with patch.object(session.Sessions, "_given", given):
        yield


@contextmanager
def login(_: Scene) -> Iterator[None]:
    """Whoever signed whatever for whatever dashboard."""

    def anything(said: Envelope, ring: Any, **_kept: Any) -> tuple[Any, keyring.Signer]:
        import base64

        found = json.loads(base64.b64decode(said.payload))
        told = type("Told", (), {"challenge": found.get("challenge", "x")})()
        key = next(name for name, each in ring.keys.items() if each.certificate.role == "vote")
        return told, keyring.Signer("bob", None, "vote", key)

    with patch.object(session, "check_login", anything):
        yield


def once(_: Scene) -> AbstractContextManager[Any]:
    """Links are good as often as one likes, for whoever guesses, for ever."""
    return patch.object(session.Sessions, "enter", lambda self, _token, now: _let_in(self, now))


def _let_in(sessions: session.Sessions, now: float) -> str:
    sessions._sessions[session._hash("let in")] = session._Session("bob", "", now, now)
    return "let in"


def looking(scene: Scene) -> AbstractContextManager[Any]:
    """A link signs in as soon as it is looked at."""
    return any_method(scene, "/login/{token}")


def levels(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(Ask, "must_see", lambda *_: None)


@contextmanager
def roles(_: Scene) -> Iterator[None]:
    with (
        patch.object(decisions, "_member", lambda _ask: "bob"),
        patch.object(Viewer, "has", lambda *_: True),
    ):
        yield


@contextmanager
def escaping(_: Scene) -> Iterator[None]:
    made = render._ENVIRONMENT
    made.autoescape = False
    assert made.cache is not None
    made.cache.clear()
    try:
        yield
    finally:
        made.autoescape = True
        made.cache.clear()


def policy(_: Scene) -> AbstractContextManager[Any]:
    return patch.dict(headers.HEADERS, clear=True)


@contextmanager
def files(scene: Scene) -> Iterator[None]:
    """Files are served from a folder, by the name that was asked for."""
    route = next(each for each in scene.app.routes if each.path.startswith("/static"))

    async def naive(scope: Any, receive: Any, send: Any) -> None:
        asked = unquote(unquote(str(scope["path"]).replace("\\", "/"))).replace("\x00", "")
        path = Path(scene.folder, "static", *asked.partition("/static/")[2].split("/"))
        found = (scene.folder / path.name).read_text() if path.name == "secret.txt" else ""
        await Response(found, 200 if found else 404)(scope, receive, send)

    with patch.object(route, "app", naive):
        yield


@contextmanager
def parameters(_: Scene) -> Iterator[None]:
    def number(self: Ask, name: str, default: int, **_kept: Any) -> int:
        text = self.request.query_params.get(name)
        return int(text) if text else default

    def word(self: Ask, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    with (
        patch.object(Ask, "number", number),
        patch.object(render, "MAX_PARAMETER", 1 << 30),
        patch.object(
            Ask, "word", lambda self, name, default="": self.request.query_params.get(name, default)
        ),
        patch.object(headers, "MAX_TARGET", 1 << 30),
    ):
        yield


@contextmanager
def bodies(_: Scene) -> Iterator[None]:
    async def read(request: Request, _most: int) -> bytes:
        return await request.body()

    with (
        patch.object(server, "read_body", read),
        patch.object(envelope.Envelope, "from_bytes", json.loads),
    ):
        yield


@contextmanager
def any_method(scene: Scene, path: str) -> Iterator[None]:
    found = [each for each in scene.app.routes if each.path.endswith(path) and "POST" in (each.methods or ())]
    others = [each for each in scene.app.routes if each.path.endswith(path) and each not in found]
    with ExitStack() as stack:
        for each in found:
            stack.enter_context(patch.object(each, "methods", None))
        for each in others:
            stack.enter_context(patch.object(each, "methods", {"NONE"}))
        stack.enter_context(patch.object(headers, "METHODS", _All()))
        stack.enter_context(patch.object(headers, "SAFE", _All()))
        yield


class _All(frozenset[str]):
    def __contains__(self, _: object) -> bool:
        return True


def methods(scene: Scene) -> AbstractContextManager[Any]:
    return any_method(scene, "/leave")


@contextmanager
def redirects(scene: Scene) -> Iterator[None]:
    route = next(each for each in scene.app.routes if each.path == "/")

    async def naive(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope)
        to = request.query_params.get("next") or request.headers.get("x-forwarded-host", "evil.example")
        await RedirectResponse(to if "//" in to else f"//{to}/en/")(scope, receive, send)

    with patch.object(route, "app", naive):
        yield


def keeping(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(headers, "kept_by", lambda _scope: "public, max-age=600")


def chance(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(session.secrets, "token_urlsafe", lambda _n: "chosen-by-somebody-else")


def owner(_: Scene) -> AbstractContextManager[Any]:
    return patch.object(mine, "_opens", lambda *_: True)


def streams(scene: Scene) -> AbstractContextManager[Any]:
    return patch.object(scene.board.site.live, "_most", 1 << 30)


@contextmanager
def framing(_: Scene) -> Iterator[None]:
    """Framing is the server library's and stays on: the control sends the inner request plainly."""
    from tests.web.hostile import classes

    with patch.object(classes, "PLAINLY", True):
        yield


CHECKS: Final[dict[str, tuple[Off, str]]] = {
    "origin": (
        origin,
        "what may change something comes from a page of this dashboard",
    ),
    "host": (host, "the request names this server (Host)"),
    "cookie": (cookie, "a session is one that was given, by the hash of its cookie"),
    "expiry": (expiry, "a session ends unused, and in the end"),
    "leaving": (leaving, "signing out ends the session here, not in the browser alone"),
    "key": (key_holds, "a session ends with its key and its membership"),
    "challenge": (challenge, "a challenge was given here, in time, and is answered once"),
    "login": (login, "the vote key of a member signed for this dashboard and consortium"),
    "once": (once, "a link is good once, for its time, and nobody guesses it"),
    "looking": (looking, "looking at a link does nothing"),
    "levels": (levels, "the charter's [public] holds for each page"),
    "roles": (roles, "pages of a role are for that role"),
    "escaping": (escaping, "foreign words are escaped"),
    "policy": (policy, "the content security policy stands on every answer"),
    "files": (files, "files are those of the package, by their names"),
    "parameters": (parameters, "parameters are bounded, and stand once"),
    "bodies": (bodies, "bodies are bounded before they are read, and canonical"),
    "methods": (methods, "only POST changes something"),
    "redirects": (redirects, "redirects lead to pages of this dashboard"),
    "keeping": (keeping, "what is for one viewer is kept by no cache"),
    "chance": (chance, "the name of a session is made here, by chance"),
    "owner": (owner, "a node's page is for whoever has its link"),
    "streams": (streams, "live views are bounded, and pages do without"),
    "framing": (framing, "a request ends where its one length says"),
}
