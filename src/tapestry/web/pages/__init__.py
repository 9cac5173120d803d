"""The pages. Each module has `ROUTES`; here they stand together."""

from __future__ import annotations

from tapestry.web.pages import data, home, members, runs
from tapestry.web.pages.route import Route

__all__ = ["ROUTES", "Route"]

ROUTES: tuple[Route, ...] = (*home.ROUTES, *runs.ROUTES, *members.ROUTES, *data.ROUTES)
