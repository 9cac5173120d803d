"""Data: what members show of their datasets. The text itself is nowhere here, nor at the core."""

from __future__ import annotations

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


def visible(ask: Ask) -> list[Row]:
    """Of each dataset what this viewer may know."""
    insider = ask.viewer.insider
    return [of_card_shown(each.member, each.dataset, _part(each, insider)) for each in ask.listings]


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
    every = visible(ask)
    found = search(every, words)
    if language:
        found = [row for row in found if language in row.languages]
    if licence:
        found = [row for row in found if row.licence == licence]
    last = max(1, -(-len(found) // PER_PAGE))
    at = ask.number("page", 1, least=1, most=last)
    licences: dict[str, int] = {}
    for row in every:
        if row.licence:
            licences[row.licence] = licences.get(row.licence, 0) + 1
    shown = Found(
        rows=found[(at - 1) * PER_PAGE : at * PER_PAGE],
        total=len(found),
        every=len(every),
        languages=coverage(every),
        licences=sorted(licences.items(), key=lambda each: (-each[1], each[0])),
    )
    template = "data_rows.html" if ask.partial else "data.html"
    return page(
        ask, template, found=shown, q=" ".join(words), language=language, licence=licence, at=at, last=last
    )


ROUTES = (Route("/data", show),)
