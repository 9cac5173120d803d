"""The dashboard as an application: routes, what guards them, and what an error looks like."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tapestry.errors import TapestryError
from tapestry.web import assets, login, problems
from tapestry.web.headers import OWN, Guarded
from tapestry.web.origins import from_elsewhere
from tapestry.web.pages import ROUTES, Route, mine
from tapestry.web.site import Site, site_of

GZIP_BYTES: Final = 600


def make_app(site: Site, more: Iterable[Route] = ()) -> FastAPI:
    """An application over one site.

    Args:
        site: what its pages show.
        more: routes beside those of `tapestry.web.pages`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.site = site
    for error in (TapestryError, HTTPException, Exception):
        app.add_exception_handler(error, problems.show)
    app.add_route("/", _home, methods=["GET"])
    app.add_route(assets.PREFIX + "/{path:path}", site.assets.serve, methods=["GET"])
    for method, path, endpoint in (*login.PLAIN, *mine.PLAIN):
        app.add_route(path, endpoint, methods=[method])
    for route in (*ROUTES, *login.ROUTES, *more):
        app.add_route("/{lang:str}" + route.path, route.endpoint, methods=[route.method])
    app.add_middleware(GZipMiddleware, minimum_size=GZIP_BYTES, compresslevel=5)
    names = site.settings.names if not site.settings.loopback else (*OWN, *site.settings.names)
    app.add_middleware(Guarded, names=names, elsewhere=partial(from_elsewhere, site.settings))
    return app


async def _home(request: Request) -> Response:
    """To the first page, in the language that the browser asks for."""
    language = site_of(request).texts.best(request.headers.get("accept-language", ""))
    return RedirectResponse(f"/{language}/", 307, {"Vary": "Accept-Language"})
