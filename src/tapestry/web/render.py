"""From a template and values to a page: language, viewer and addresses are there by themselves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from tapestry import __version__
from tapestry.errors import AuthError, FormatError, NotFound
from tapestry.web.known import Known
from tapestry.web.numbers import Numbers
from tapestry.web.site import Site, site_of
from tapestry.web.source import Listing
from tapestry.web.viewers import Viewer, What

MAX_PARAMETER: Final = 200
MAX_PAGE: Final = 1_000_000
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader(__package__, "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


class NotForYou(AuthError):
    """A page that this viewer's role does not see."""

    code = "not-for-you"


class Ask:
    """A request for a page: in which language, by whom, with which parameters.

    Raises `NotFound` where the language in its path is none of ours.
    """

    def __init__(self, request: Request, language: str | None = None) -> None:
        self.request = request
        self.site: Site = site_of(request)
        language = language or str(request.path_params.get("lang", ""))
        if language not in self.site.texts.catalogs:
            raise NotFound("there is nothing at this address")
        self.lang = language
        self.text = self.site.texts.catalogs[language]
        self.numbers = Numbers(self.text)
        self.known: Known = self.site.known()

    @cached_property
    def viewer(self) -> Viewer:
        return self.site.viewer(self.request)

    @property
    def partial(self) -> bool:
        """Whether htmx asks for a part of the page that it has."""
        return self.request.headers.get("hx-request") == "true"

    def sees(self, what: What) -> bool:
        return self.viewer.sees(what, self.known.charter)

    @property
    def listings(self) -> tuple[Listing, ...]:
        """Datasets that this viewer may know of; of each, only some fields."""
        return (self.known.listings or ()) if self.sees("catalog") else ()

    def must_see(self, *what: What) -> None:
        """Raises `NotForYou`."""
        if not all(map(self.sees, what)):
            raise NotForYou("this consortium shows that to its members only")

    def word(self, name: str, default: str = "") -> str:
        """A query parameter. Raises `FormatError` where it is too long or stands twice."""
        found = self.request.query_params.getlist(name)
        if len(found) > 1 or any(len(each) > MAX_PARAMETER for each in found):
            raise FormatError(f"the parameter {name} is too long, or stands twice")
        return found[0] if found else default

    def number(self, name: str, default: int, *, least: int = 0, most: int = MAX_PAGE) -> int:
        """A query parameter that is a whole number. Raises `FormatError` where it is none, or too much."""
        text = self.word(name)
        if not text:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
            raise FormatError(f"the parameter {name} is no number from {least} to {most}")
        return int(text)

    def one_of(self, name: str, allowed: tuple[str, ...]) -> str:
        """A query parameter that is one of a few words, the first by default. Raises `FormatError`."""
        found = self.word(name, allowed[0])
        if found not in allowed:
            raise FormatError(f"the parameter {name} is none of {', '.join(allowed)}")
        return found

    def href(self, path: str, /, **query: Any) -> str:
        """Address of a page of this language: `href("/runs/demo", metric="loss")`; None leaves one out."""
        return address(self.lang, path, query)

    def here(self, **query: Any) -> str:
        """This page's own address with other parameters."""
        kept = {name: value for name, value in self.request.query_params.items() if name not in query}
        return self.request.url.path + _query({**kept, **query})

    def in_language(self, language: str) -> str:
        """This page in another language."""
        _, _, rest = self.request.url.path.lstrip("/").partition("/")
        return address(language, "/" + rest, self.request.query_params)

    def age_s(self) -> float:
        """Seconds since the core was heard of."""
        return time.monotonic() - self.known.heard_s if self.known.heard_at else 0.0


def address(language: str, path: str, query: Mapping[str, Any]) -> str:
    return f"/{language}{quote(path, safe='/-._~')}" + _query(query)


def _query(values: Mapping[str, Any]) -> str:
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    return "?" + urlencode(given, doseq=True) if given else ""


def fill(ask: Ask, template: str, /, **values: Any) -> str:
    """The text of a template; for parts of pages, and for streams."""
    return _ENVIRONMENT.get_template(template).render(
        ask=ask,
        t=ask.text.get,
        tn=ask.text.counted,
        fmt=ask.numbers,
        lang=ask.lang,
        languages=ask.site.texts.languages,
        href=ask.href,
        asset=ask.site.assets.path,
        viewer=ask.viewer,
        known=ask.known,
        settings=ask.site.settings,
        version=__version__,
        **values,
    )


def page(ask: Ask, template: str, /, *, status: int = 200, **values: Any) -> Response:
    """A page. What somebody who signed in sees is kept nowhere."""
    return sent(ask, fill(ask, template, **values), status)


def sent(ask: Ask, text: str, status: int = 200) -> Response:
    """The same of a text that is there already."""
    kept = "no-store" if ask.viewer.member is not None else "no-cache"
    headers = {"Cache-Control": kept, "Vary": "Cookie, HX-Request"}
    return Response(text, status, headers, "text/html; charset=utf-8")
