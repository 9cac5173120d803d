"""One dashboard: its settings, and what its pages share."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from tapestry.errors import NotFound
from tapestry.web.assets import Assets
from tapestry.web.bell import Bell
from tapestry.web.book import Book
from tapestry.web.building import Building
from tapestry.web.cookies import who
from tapestry.web.follow import Follower
from tapestry.web.index import Index
from tapestry.web.known import Known
from tapestry.web.live import Live
from tapestry.web.session import Sessions
from tapestry.web.settings import WebSettings
from tapestry.web.shared import Shared
from tapestry.web.texts import Texts
from tapestry.web.viewers import ANYBODY, INSIDER, Viewer

NOTHING: Final = Known()
SECTIONS: Final = tuple(
    (name, f"/{name}") for name in ("runs", "members", "data", "decisions", "ledger", "releases")
)
CHARTS: Final = 8
"""Of runs, held at once: one of fifty members over thousands of rounds has some megabytes."""
MINE: Final = ("mine", "/mine")


@dataclass(kw_only=True)
class Site:
    """
    Args:
        settings: of this dashboard.
        follower: of the core; None where none is followed.
        bell: rung when something is known anew.
        sessions: of those who have signed in.
        index: of the ledger.
        shared: what its pages have worked out.
        charts: series of numbers, which are larger.
        building: looks at the node on this machine; None where none is shown.
        owner_key: of the link for the node's owner.
    """

    settings: WebSettings
    follower: Follower | None = None
    bell: Bell = field(default_factory=Bell)
    sessions: Sessions = field(default_factory=Sessions)
    index: Index = field(default_factory=Index)
    shared: Shared = field(default_factory=Shared)
    charts: Shared = field(default_factory=lambda: Shared(CHARTS))
    building: Callable[[], Building] | None = None
    owner_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    live: Live = field(init=False)
    _closed: bool = field(init=False, default=False)
    texts: Texts = field(default_factory=Texts.load)
    assets: Assets = field(default_factory=Assets.load)

    def __post_init__(self) -> None:
        self.live = Live(self.bell, self.shared, self.settings.streams, self.settings.streams_each)

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Of the menu: name and address of those pages that this dashboard has."""
        followed = SECTIONS if self.follower is not None or self.building is None else ()
        return (*followed, MINE) if self.building is not None else followed

    def known(self) -> Known:
        """Of the consortium, now."""
        known = self.follower.known if self.follower is not None else NOTHING
        if known.closed and not self._closed:  # what was worked out of the ledger goes with it
            self.shared.clear()
            self.charts.clear()
        self._closed = known.closed
        return known

    @property
    def book(self) -> Book:
        """The ledger. Raises `NotFound` where none is kept."""
        if self.follower is None:
            raise NotFound("this dashboard follows no core")
        return self.follower.book

    def viewer(self, request: Request) -> Viewer:
        """Who asks: who has signed in, else whoever this dashboard is open to."""
        found = who(self.settings, self.sessions, self.known(), request)
        if found is not None:
            return found
        return INSIDER if self.settings.opened == "member" else ANYBODY


def site_of(request: Request) -> Site:
    """The dashboard that a request is to."""
    site: Site = request.app.state.site
    return site
