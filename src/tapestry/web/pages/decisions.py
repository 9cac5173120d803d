"""Decisions: what is voted on, what was decided, what members pledge, and the charter in plain words.

Nothing is signed here. Where a member could act, the page shows the command to run on its own machine.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tapestry.errors import NotFound
from tapestry.governance.capture import check
from tapestry.governance.prose import sections
from tapestry.governance.state import Item
from tapestry.protocol.clock import seconds_between
from tapestry.web import deciding
from tapestry.web.book import Book
from tapestry.web.cookies import core_time
from tapestry.web.pages.ledger import book_of
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, NotForYou, page

EACH_PAGE: Final = 30


async def show(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("votes")
    book = await book_of(ask)
    found = await _listed(ask, book)
    decided = [each for each in found if not each.open]
    pages = max(1, -(-len(decided) // EACH_PAGE))
    at = min(pages, ask.number("page", 1, least=1))
    return page(
        ask,
        "decisions.html",
        open_ones=sorted((each for each in found if each.open), key=lambda each: each.item.closes),
        decided=decided[(at - 1) * EACH_PAGE : at * EACH_PAGE],
        at=at,
        pages=pages,
        phases=await _phases(ask) if ask.known.heard_at else [],
        left_s=_left(ask),
        there=ask.known.charter is not None,
    )


async def one(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("votes")
    book = await book_of(ask)
    item = _item(ask)
    assembly = ask.known.assembly
    shown = await ask.site.shared.of(
        ("proposal", item.proposal), (assembly, book), lambda: deciding.shown(assembly, item, book)
    )
    return page(ask, "proposal.html", one=shown, left_s=_left(ask))


async def charter(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("charter")
    held = ask.known.charter
    if held is None:
        raise NotFound("this consortium has no charter: its operator decides")
    prose = await ask.site.shared.of("charter", (held,), lambda: sections(held, check(held)))
    return page(ask, "charter.html", charter=held, prose=prose)


async def desk(request: Request) -> Response:
    """What waits for whoever has signed in, by its roles."""
    ask = Ask(request)
    member = _member(ask)
    book = await book_of(ask)
    assembly, at = ask.known.assembly, core_time(ask.known)
    found = await _listed(ask, book)
    waiting = [each for each in found if each.may_vote(member) and each.choice_of(member) is None]
    return page(
        ask,
        "desk.html",
        waiting=sorted(waiting, key=lambda each: each.item.closes),
        suspended=assembly.governance.suspension(member, at),
        pledges=deciding.to_confirm(assembly, member, at, book),
        left_s=_left(ask),
    )


async def audit(request: Request) -> Response:
    """For auditors: what is in dispute, and how to look for oneself."""
    ask = Ask(request)
    _member(ask)
    if not ask.viewer.has("auditor"):
        raise NotForYou("this page is for auditors, whom the charter names")
    book = await book_of(ask)
    index = ask.site.index
    disputes, refused = await ask.site.shared.of(
        "audit",
        (book, ask.known.assembly, index.size),
        lambda: (deciding.disputes(ask.known.assembly, book, index), deciding.refused(book, index)),
    )
    return page(ask, "audit.html", disputes=disputes, refused=refused)


async def _listed(ask: Ask, book: Book | None) -> list[deciding.Shown]:
    assembly = ask.known.assembly
    return await ask.site.shared.of("decisions", (assembly, book), lambda: deciding.listed(assembly, book))


async def _phases(ask: Ask) -> list[deciding.PhaseShown]:
    """As of this second, since what counts depends on when it is asked."""
    assembly, at = ask.known.assembly, core_time(ask.known)
    second = at.partition(".")[0]
    return await ask.site.shared.of("phases", (assembly, second), lambda: deciding.phases(assembly, at))


def _member(ask: Ask) -> str:
    if ask.viewer.member is None:
        raise NotForYou("this page is for members who have signed in")
    return ask.viewer.member


def _item(ask: Ask) -> Item:
    name = str(ask.request.path_params["proposal"])
    found = ask.known.assembly.governance.proposals.get(name)
    if found is None:
        raise NotFound("there is no such proposal")
    return found


def _left(ask: Ask) -> dict[str, float]:
    """Seconds that are left to vote, by proposal."""
    if not ask.known.heard_at:
        return {}
    now = core_time(ask.known)
    return {each.proposal: seconds_between(now, each.closes) for each in ask.known.assembly.governance.open}


ROUTES = (
    Route("/decisions", show),
    Route("/decisions/charter", charter),
    Route("/decisions/{proposal}", one),
    Route("/desk", desk),
    Route("/desk/audit", audit),
)
