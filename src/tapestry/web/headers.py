"""What every answer carries, whatever made it, and what no request gets past."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Scripts and styles are files of our own; nothing that stands in a page is ever run."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
OWN: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine for itself."""
MAX_TARGET: Final = 2048
FILES: Final = "/static/"
"""They are the same for everybody."""
SAFE: Final = frozenset({"GET", "HEAD"})
METHODS: Final = SAFE | {"POST"}


class Guarded:
    """Outermost layer: the headers above on every answer; a request under a name that is none of ours, as by
    DNS rebinding, goes no further, nor does one with a target of more than `MAX_TARGET` bytes, nor one that
    may change something and comes from a page of somebody else.

    Args:
        app: the application.
        names: what browsers may call this server; none: anything.
        elsewhere: whether a request comes from another page than ours; asked where it may change something.
    """

    def __init__(
        self, app: ASGIApp, names: Collection[str], elsewhere: Callable[[Request], bool] = lambda _: True
    ) -> None:
        self._app = app
        self._names = frozenset(names)
        self._elsewhere = elsewhere

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-cache")
                if (kept := kept_by(scope)) is not None:
                    headers["Cache-Control"] = kept
            await send(message)

        request = Request(scope)
        if self._names and _name(request.headers.get("host", "")) not in self._names:
            await _plain(headed, 421, "this server is not known under that name")
        elif len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MAX_TARGET:
            await _plain(headed, 414, "that address is too long")
        elif "transfer-encoding" in request.headers and "content-length" in request.headers:
            # Whoever stands before this server may have read another end of it.
            await _plain(headed, 400, "a request says its length once", (b"connection", b"close"))
        elif request.method not in METHODS:
            await _plain(headed, 405, "that method is not possible here")
        elif request.method not in SAFE and self._elsewhere(request):
            await _plain(headed, 403, "this was sent from another page than one of this server's own")
        else:
            await self._app(scope, receive, headed)


def kept_by(scope: Scope) -> str | None:
    """What is answered to somebody who may have signed in is kept nowhere; None where the page may say so."""
    known = any(name == b"cookie" for name, _ in scope["headers"])
    return "no-store" if known and not str(scope["path"]).startswith(FILES) else None


def own_name(request: Request) -> bool:
    """Whether this server was called by a name that a machine has for itself."""
    return _name(request.headers.get("host", "")) in OWN


def _name(host: str) -> str:
    """Of a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _plain(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    """Before anything is known of who asks, not even the language."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
