"""Releases: bases the members have accepted, their files by hash, and the derivatives that stand on them."""

from __future__ import annotations

import asyncio
from functools import partial
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
    shared, insider = ask.site.shared, ask.viewer.insider
    files: dict[str, tuple[released.File, ...]] = {}
    for each in folders:
        newest = await asyncio.to_thread(released.newest_list, each)
        files |= await shared.of(("repository", str(each)), (newest,), partial(released.repository, each))

    def make() -> tuple[list[released.Release], list[released.Head], list[released.Trunk]]:
        found, heads = released.releases(known.assembly, known.states, [files]), released.heads(known.states)
        names = {head.state: head.run for head in reversed(heads)} | {each.state: each.name for each in found}
        return found, heads, released.tree(released.seen_by(known.derivatives, insider=insider), names)

    made_of = (known.assembly, known.states, known.derivatives, tuple(files.items()))
    found, heads, trunks = await shared.of(("releases", insider), made_of, make)
    return page(
        ask,
        "releases.html",
        releases=found,
        heads=heads if ask.sees("plans") else [],
        trunks=trunks,
        places=places,
        web=[each for each in places if each.startswith(WEB)],
    )


ROUTES = (Route("/releases", show),)
