"""Under which addresses a dashboard is known, and which of them a request came to.

A sign-in and a session belong to one of them. They are what the settings say, or this machine's own names at
the port that is listened on; never just what a request claims. Over plain HTTP only this machine's own are
taken, since a session that others can read on the way is theirs too.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from tapestry.errors import InputError
from tapestry.identity.logins import origin_of
from tapestry.web.settings import WebSettings

OWN: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


def origin_asked(settings: WebSettings, request: Request) -> str | None:
    """The address of this dashboard that a request came to; None where it is none to sign in at."""
    hosts = request.headers.getlist("host")
    if len(hosts) != 1:
        return None
    host = hosts[0].lower()
    for origin in settings.origins:
        scheme, _, known = origin.partition("://")
        if host == known and (scheme == "https" or _own(known)):
            return origin
    server = request.scope.get("server")
    if settings.origins or not settings.loopback or not server or not _own(host):
        return None
    try:
        found = origin_of(f"http://{host}")
    except InputError:
        return None
    return found if (found.rpartition(":")[2] if _ported(found) else "80") == str(server[1]) else None


def from_elsewhere(settings: WebSettings, request: Request) -> bool:
    """Whether a request that may change something comes from a page of somebody else, or from none."""
    stated = request.headers.getlist("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    own = origin_asked(settings, request)
    return own is None or stated != [own] or site != "same-origin"


def _own(host: str) -> bool:
    """Whether a host, with or without a port, is a name of this machine for itself."""
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    return name in OWN


def _ported(origin: str) -> bool:
    return origin.rpartition("]")[2].count(":") > ("]" not in origin)
