"""The pages. Each module has `ROUTES`; here they stand together."""

from __future__ import annotations

from tapestry.web.pages import data, decisions, home, ledger, members, mine, releases, runs
from tapestry.web.pages.route import Route

__all__ = ["ROUTES", "Route"]

ROUTES: tuple[Route, ...] = (
    *home.ROUTES,
    *runs.ROUTES,
    *members.ROUTES,
    *data.ROUTES,
    *decisions.ROUTES,
    *ledger.ROUTES,
    *releases.ROUTES,
    *mine.ROUTES,
)
