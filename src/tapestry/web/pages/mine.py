"""What left my building: a node's own page, for its owner, from that node's files alone.

It is served where the node is, and to whoever has the link that was printed there: other users of the machine
have not, and a core has no part in it.
"""

from __future__ import annotations

import asyncio
import csv
import hmac
import io
from collections import defaultdict
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tapestry.errors import NotFound
from tapestry.protocol.clock import time_text
from tapestry.web.building import Building
from tapestry.web.charts import cell
from tapestry.web.headers import own_name
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, NotForYou, page
from tapestry.web.site import Site, site_of

EACH_PAGE: Final = 50
COLUMNS: Final = ("time", "kind", "name", "count", "bytes", "sha256")


async def show(request: Request) -> Response:
    ask = Ask(request)
    found = await _building(ask)
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for each in found.left:
        kinds[each.kind][0] += each.count
        kinds[each.kind][1] += each.bytes
    wanted = ask.word("kind")
    left = [each for each in found.left if not wanted or each.kind == wanted]
    pages = max(1, -(-len(left) // EACH_PAGE))
    at = min(pages, ask.number("page", 1, least=1))
    shown = page(
        ask,
        "mine.html",
        building=found,
        kinds=sorted(kinds.items(), key=lambda each: -each[1][1]),
        wanted=wanted,
        left=left[(at - 1) * EACH_PAGE : at * EACH_PAGE],
        count=len(left),
        at=at,
        pages=pages,
        time=_time,
    )
    shown.headers["Cache-Control"] = "no-store"
    return shown


async def as_csv(request: Request) -> Response:
    ask = Ask(request)
    found = await _building(ask)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for each in found.left:
        name = each.name and cell(each.name)
        writer.writerow([_time(each.time), cell(each.kind), name, each.count, each.bytes, each.sha256])
    headers = {"Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="egress.csv"'}
    return Response(out.getvalue(), headers=headers, media_type="text/csv; charset=utf-8")


async def enter(request: Request) -> Response:
    """The link that was printed: from here on this browser may look."""
    site = site_of(request)
    key = str(request.path_params["key"])
    if not own_name(request) or not _opens(site, key):
        raise NotFound("there is nothing at this address")
    language = site.texts.best(request.headers.get("accept-language", ""))
    answer = RedirectResponse(
        f"/{language}/mine", 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )
    answer.set_cookie(_cookie(request), key, path="/", httponly=True, samesite="strict")
    return answer


def is_owner(site: Site, request: Request) -> bool:
    """Whether this browser has opened the link, and is on this machine: a proxy that shows the dashboard to
    others does not show this."""
    return own_name(request) and _opens(site, request.cookies.get(_cookie(request), ""))


def _opens(site: Site, key: str) -> bool:
    given = key.encode("utf-8", "replace")
    return site.building is not None and hmac.compare_digest(given, site.owner_key.encode())


async def _building(ask: Ask) -> Building:
    """Raises `NotFound` where no node is shown, `NotForYou` for whoever has not its link."""
    look = ask.site.building
    if look is None:
        raise NotFound("this dashboard shows no node")
    if not is_owner(ask.site, ask.request):
        raise NotForYou("open the link that `tapestry web --node` printed where it was started")
    return await asyncio.to_thread(look)


def _cookie(request: Request) -> str:
    server = request.scope.get("server")
    return f"tapestry-mine-{server[1] if server else 0}"


def _time(seconds: float) -> str:
    return time_text(round(seconds * 1000))


PLAIN: Final = (("GET", "/mine/{key}", enter),)
ROUTES = (Route("/mine", show), Route("/mine.csv", as_csv))
