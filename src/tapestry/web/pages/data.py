"""Data: what members show of their datasets. The text itself is nowhere here, nor at the core."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from tapestry.catalog.listing import Shown
from tapestry.catalog.overview import OfLanguage, Row, coverage, of_card_shown, search
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page
from tapestry.web.source import Listing

PER_PAGE = 50
MAX_WORDS = 8


@dataclass(frozen=True)
class Every:
    """All datasets, of each what a kind of viewer may know."""

    rows: list[Row]
    languages: list[OfLanguage]
    licences: list[tuple[str, int]]


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Args:
        rows: of this page.
        total: of all pages.
        languages: of all datasets that are shown, most text first.
    """

    rows: list[Row]
    total: int
    every: int
    languages: list[OfLanguage]
    licences: list[tuple[str, int]]


def _part(listing: Listing, insider: bool) -> Shown:
    if insider:
        return listing.card
    hidden = {field: None for field in Shown.model_fields if field not in listing.public}
    return listing.card.model_copy(update=hidden)


async def show(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("catalog")
    words = ask.word("q").split()[:MAX_WORDS]
    language, licence = ask.word("language"), ask.word("licence")
    listings, insider = ask.listings, ask.viewer.insider
    shared, made_of = ask.site.shared, (ask.known.listings, ask.sees("catalog"))
    every = await shared.of(("data", insider), made_of, lambda: _every(listings, insider))
    asked = ask.number("page", 1, least=1)
    shown = await shared.of(
        ("data", insider, *words, None, language, licence, asked),
        (every,),
        lambda: _found(every, words, language, licence, asked),
    )
    last = max(1, -(-shown.total // PER_PAGE))
    at = ask.number("page", 1, least=1, most=last)
    template = "data_rows.html" if ask.partial else "data.html"
    return page(
        ask, template, found=shown, q=" ".join(words), language=language, licence=licence, at=at, last=last
    )


def _every(listings: Iterable[Listing], insider: bool) -> Every:
    rows = [of_card_shown(each.member, each.dataset, _part(each, insider)) for each in listings]
    licences = Counter(row.licence for row in rows if row.licence)
    by_count = sorted(licences.items(), key=lambda each: (-each[1], each[0]))
    return Every(rows=rows, languages=coverage(rows), licences=by_count)


def _found(every: Every, words: list[str], language: str, licence: str, at: int) -> Found:
    found = search(every.rows, words)
    if language:
        found = [row for row in found if language in row.languages]
    if licence:
        found = [row for row in found if row.licence == licence]
    rows = found[(at - 1) * PER_PAGE : at * PER_PAGE]
    return Found(
        rows=rows,
        total=len(found),
        every=len(every.rows),
        languages=every.languages,
        licences=every.licences,
    )


ROUTES = (Route("/data", show),)
