"""Before any route: who may ask at all, how many at once, and that no exception gets out.

A page in a browser can make it send requests to loopback, under a name of its own that it lets point
there (DNS rebinding), or blindly from another site. So a request must name this host as loopback, and
must not come from a foreign origin. Beyond loopback a bearer token is asked for.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapestry.errors import AuthError, InputError, TapestryError
from tapestry.host import files
from tapestry.sovereign.serve.answers import Full, failure
from tapestry.sovereign.serve.app import Tell, fault

MAX_AT_ONCE: Final = 64
"""Requests whose bodies may be in memory together."""
MIN_TOKEN: Final = 16
_MAX_TOKEN_BYTES: Final = 4096
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


class Forbidden(AuthError):
    code = "forbidden"


class Gate:
    """The endpoint's outermost layer.

    Args:
        app: the routes.
        tell: told of faults.
        token: asked of every request, unless None.
        named: whether the request must name this host as loopback.
    """

    def __init__(self, app: ASGIApp, *, tell: Tell, token: str | None, named: bool = True) -> None:
        self._app = app
        self._tell = tell
        self._token = token.encode() if token is not None else None
        self._named = named
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = self._refused(_headers(scope))
        if refused is not None:
            await failure(refused, 403 if isinstance(refused, Forbidden) else None)(scope, receive, send)
            return
        self._now += 1
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the client learns nothing of it
            self._tell("unexpected", fault(error))
            if started:
                raise ConnectionAbortedError("an answer broke off") from None
            await failure(TapestryError("the endpoint failed; its log says where"))(scope, receive, send)
        finally:
            self._now -= 1

    def _refused(self, headers: dict[str, list[str]]) -> TapestryError | None:
        if self._named and not self._names_loopback(headers):
            return Forbidden(
                "this endpoint answers to localhost and 127.0.0.1 only, not to the host you named"
            )
        if any(not _is_loopback(urlsplit_host(origin)) for origin in headers.get("origin", ())):
            return Forbidden("this endpoint answers no page of another origin")
        if self._token is not None and not self._has_token(headers):
            return AuthError("the request has no valid bearer token", hint="send Authorization: Bearer TOKEN")
        if self._now >= MAX_AT_ONCE:
            return Full(f"{MAX_AT_ONCE} requests are being read or answered", hint="try again in a second")
        return None

    def _names_loopback(self, headers: dict[str, list[str]]) -> bool:
        hosts = headers.get("host", [])
        return len(hosts) == 1 and _is_loopback(urlsplit_host("//" + hosts[0]))

    def _has_token(self, headers: dict[str, list[str]]) -> bool:
        given = headers.get("authorization", [])
        if len(given) != 1 or self._token is None:
            return False
        scheme, _, token = given[0].partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode("latin-1"), self._token
        )


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def urlsplit_host(url: str) -> str:
    """The host of a URL or of `//HOST:PORT`; empty where there is none."""
    try:
        found = urlsplit(url)
        found.port  # noqa: B018 - raises where it is none
        return "" if found.username is not None or found.path else found.hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    return host == "localhost" or is_loopback_address(host)


def is_loopback_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """A bearer token from a file that only its owner may read. Raises `InputError`."""
    try:
        mode = path.stat().st_mode
        text = files.read_limited(path, _MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"cannot read a token from {path}", hint="write one: openssl rand -hex 32 > FILE"
        ) from e
    if stat.S_IMODE(mode) & 0o077:
        raise InputError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    if len(text) < MIN_TOKEN or _TOKEN.fullmatch(text) is None:
        raise InputError(
            f"{path} holds no token of at least {MIN_TOKEN} characters",
            hint="write one: openssl rand -hex 32 > FILE",
        )
    return text
