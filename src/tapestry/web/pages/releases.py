"""Releases: bases the members have accepted, their files by hash, and the derivatives that stand on them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tapestry.web import released
from tapestry.web.pages.route import Route
from tapestry.web.render import Ask, page

WEB: Final = ("http://", "https://")


async def show(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("releases")
    known = ask.known
    places = ask.site.settings.releases
    folders = [Path(each) for each in places if not each.startswith(WEB)]
    repositories = await asyncio.to_thread(lambda: [released.repository(each) for each in folders])
    found = released.releases(known.assembly, known.states, repositories)
    names = {each.state: each.name for each in found}
    for head in released.heads(known.states):
        names.setdefault(head.state, head.run)
    records = released.seen_by(known.derivatives, insider=ask.viewer.insider)
    return page(
        ask,
        "releases.html",
        releases=found,
        heads=released.heads(known.states) if ask.sees("plans") else [],
        trunks=released.tree(records, names),
        places=places,
        web=[each for each in places if each.startswith(WEB)],
    )


ROUTES = (Route("/releases", show),)
