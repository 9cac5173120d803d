"""The first page: the consortium at a glance, and where to go from there."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page


async def show(request: Request) -> Response:
    ask = Ask(request)
    return page(ask, "home.html")


ROUTES = (Route("/", show),)
