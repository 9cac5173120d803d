"""The pages. Each module has `ROUTES`; here they stand together."""

from __future__ import annotations

from tapestry.web.pages import decisions, home, ledger, mine, releases
from tapestry.web.pages.route import Route

__all__ = ["ROUTES", "Route"]

ROUTES: tuple[Route, ...] = (*home.ROUTES, *decisions.ROUTES, *ledger.ROUTES, *mine.ROUTES, *releases.ROUTES)
