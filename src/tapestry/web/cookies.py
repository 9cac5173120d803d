"""Who has signed in, by a request's cookie and the ledger as it is known now."""

from __future__ import annotations

import time

from starlette.requests import Request

from tapestry.errors import Busy
from tapestry.protocol.clock import add_seconds
from tapestry.web.known import Known
from tapestry.web.origins import origin_asked
from tapestry.web.session import Sessions
from tapestry.web.settings import WebSettings
from tapestry.web.viewers import Viewer


def who(settings: WebSettings, sessions: Sessions, known: Known, request: Request) -> Viewer | None:
    """None for whoever has not signed in."""
    origin = origin_asked(settings, request)
    if origin is None or not known.heard_at:
        return None
    cookie = request.cookies.get(cookie_name(origin))
    return sessions.viewer(cookie, known.assembly, at=core_time(known), now=time.time())


def cookie_name(origin: str) -> str:
    """One a port, since browsers do not tell ports apart; over TLS one that no other host can set."""
    if origin.startswith("https://"):
        return "__Host-tapestry"
    return f"tapestry-{origin.rpartition(':')[2] if origin.count(':') > 1 else 80}"


def core_time(known: Known) -> str:
    """The core's clock, reckoned from its last answer. Raises `Busy` before the first one."""
    if not known.heard_at:
        raise Busy("this dashboard has not heard of the core yet", hint="wait a little, and ask again")
    return add_seconds(known.heard_at, max(0.0, time.monotonic() - known.heard_s))
