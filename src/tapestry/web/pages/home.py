"""The first page: the consortium at a glance, and where to go from there."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tapestry.web.charts import languages_of
from tapestry.web.pages.route import Route
from tapestry.web.pages.runs import Shown, shown
from tapestry.web.render import Ask, page

FIRST = ("running", "planned", "finished")


async def show(request: Request) -> Response:
    ask = Ask(request)
    return page(ask, "home.html", figures=_figures(ask), run=_newest(ask))


def _figures(ask: Ask) -> list[tuple[str, int]]:
    """What there is, as far as this viewer sees it."""
    known = ask.known
    found = []
    if ask.sees("members") and known.members:
        found.append(("members", len(known.members)))
    if ask.sees("plans"):
        found.append(("runs", len({*known.states, *known.views})))
    if ask.sees("ledger") and known.size:
        found.append(("entries", known.size))
    if ask.sees("catalog") and known.listings:
        tags = languages_of(ask.listings, insider=ask.viewer.insider).values()
        found.append(("languages", len({tag for each in tags for tag in each})))
    return found


def _newest(ask: Ask) -> Shown | None:
    """The run that is looked at first: one that goes on, the one with the newest entry."""
    if not (ask.sees("plans") and ask.sees("contributions")):
        return None
    known = ask.known
    statuses = {name: state.status for name, state in known.states.items()}
    statuses |= {name: view.status for name, view in known.views.items()}
    if not statuses:
        return None
    order = list(known.states)
    ranked = sorted(
        statuses, key=lambda n: (FIRST.index(statuses[n]), -order.index(n) if n in known.states else 0, n)
    )
    return shown(ask, ranked[0])


ROUTES = (Route("/", show),)
