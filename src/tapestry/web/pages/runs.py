"""Runs: which there are, and one of them live: who does what, how the base gets better, what it cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tapestry.errors import NotFound
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.views import RunView
from tapestry.rounds.state import RunState
from tapestry.rounds.view import view_of
from tapestry.web import charts, picture
from tapestry.web.charts import BY, METRICS, ROWS, Chart
from tapestry.web.holders import holder_of
from tapestry.web.live import CROWDED_S, GAP_S
from tapestry.web.pages.route import Route
from tapestry.web.picture import Picture
from tapestry.web.render import Ask, fill, page, sent
from tapestry.web.story import Story

STEMS = ("loss", "rounds")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run, as far as it is known.

    Args:
        state, story: None where the ledger may not be read.
        heard_at: the core's time when it was heard of.
        left_s: until its last merge, by how long rounds take.
    """

    name: str
    view: RunView
    state: RunState | None
    story: Story | None
    heard_at: str
    left_s: float | None
    ends: str | None

    @property
    def title(self) -> str:
        return self.state.plan.title if self.state is not None else ""

    @property
    def total(self) -> int | None:
        return self.state.plan.rounds.total if self.state is not None else None

    @property
    def phase(self) -> str:
        """One word of where it stands, for a text."""
        if self.view.status != "running":
            return self.view.status
        at = self.view.current
        if at is not None:
            return at.phase
        return "witnessing" if not self.view.head.witnessed else "gathering"

    @cached_property
    def picture(self) -> Picture:
        members = dict(self.state.enrolled) if self.state is not None else {}
        return picture.draw(self.view, members, self.heard_at)

    @property
    def loss(self) -> float | None:
        """The newest, over members."""
        return _mean(self.story, last=True)

    @property
    def first_loss(self) -> float | None:
        return _mean(self.story, last=False)


def shown(ask: Ask, name: str) -> Shown:
    """Raises `NotFound`."""
    known = ask.known
    state, story = known.states.get(name), known.stories.get(name)
    view = known.views.get(name)
    if state is not None and (view is None or view.sequence < _newest(state, view)):
        view = view_of(state, 0)
    if view is None:
        raise NotFound(f"there is no run {name[:40]!r} here")
    left_s = None
    if state is not None and story is not None and state.status == "running":
        each_s = story.round_s()
        left_s = None if each_s is None else each_s * max(0, state.plan.rounds.total - state.merges)
    return Shown(
        name=name,
        view=view,
        state=state,
        story=story,
        heard_at=known.heard_at,
        left_s=left_s,
        ends=add_seconds(known.heard_at, left_s) if left_s is not None and known.heard_at else None,
    )


def _newest(state: RunState, view: RunView | None) -> int:
    """A view is passed over once the ledger is ahead of it: merges, or the end."""
    if view is None or state.merges > view.head.merges or state.status != view.status:
        return 1 << 60
    return 0


def _mean(story: Story | None, *, last: bool) -> float | None:
    if story is None or not story.scores:
        return None
    found = []
    for member, columns in list(story.scores.items()):  # grows meanwhile
        row = columns.last
        if row is not None:
            found.append(row[1] if last else story.first[member][1])
    return sum(found) / len(found) if found else None


# -- pages -----------------------------------------------------------------------------------------


async def every(request: Request) -> Response:
    ask = Ask(request)
    ask.must_see("plans")
    names = sorted({*ask.known.states, *ask.known.views})
    most = 50
    at = ask.number("page", 1, least=1, most=max(1, -(-len(names) // most)))
    found = [shown(ask, name) for name in names[(at - 1) * most : at * most]]
    return page(ask, "runs.html", runs=found, at=at, pages=max(1, -(-len(names) // most)))


async def one(request: Request) -> Response:
    ask = Ask(request)
    run = _named(ask)
    now = await ask.site.live.text(_live_key(ask, run), _live(ask, run.name))
    drawn = [await _drawn(ask, run, stem) for stem in STEMS]
    return page(ask, "run.html", run=run, now=now, charts=[each for each in drawn if each is not None])


async def live(request: Request) -> Response:
    """The part that changes, again and again."""
    ask = Ask(request)
    run = _named(ask)
    seen = _seen(ask)

    def may() -> bool:
        """Whether it is still so: sessions end, members are expelled, charters change."""
        return _seen(Ask(request)) == seen

    def crowded() -> str:
        return fill(ask, "crowded.html", seconds=CROWDED_S)

    holder = holder_of(ask.site.settings, request, ask.viewer)
    streams, key = ask.site.live, _live_key(ask, run)
    return streams.stream(request, key, _live(ask, run.name), may, holder=holder, crowded=crowded)


async def part(request: Request) -> Response:
    """A chart with its table alone, for whoever chooses other lines."""
    ask = Ask(request)
    drawn = await _drawn(ask, _named(ask), ask.one_of("chart", STEMS))
    if drawn is None:
        raise NotFound("there is nothing to draw yet")
    return sent(ask, drawn)


async def data(request: Request) -> Response:
    """Of a chart: what the browser draws, or a CSV of all."""
    ask = Ask(request)
    run = _named(ask)
    which = str(request.path_params["chart"])
    stem, _, form = which.partition(".")
    if stem not in STEMS or form not in ("json", "csv"):
        raise NotFound("there is no such chart")
    chart = await _chart(ask, run, stem)
    if chart is None:
        ask.must_see("scores" if stem == "loss" else "contributions")
        raise NotFound("there is nothing to draw yet")
    if form == "json":
        key = ("json", *_chart_key(ask, run, stem))
        text = await ask.site.shared.of(key, (chart.serial,), lambda: _json(chart.drawn()))
        return Response(text, headers={"Vary": "Cookie"}, media_type="application/json")
    name = f"{run.name}-{stem}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Vary": "Cookie"}
    table = await asyncio.to_thread(chart.csv, "merges")
    return Response(table, headers=headers, media_type="text/csv; charset=utf-8")


def _named(ask: Ask) -> Shown:
    name = str(ask.request.path_params["run"])
    ask.must_see("plans", "contributions")
    return shown(ask, name)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A chart in its page.

    Args:
        name: `loss` or `rounds`; its place in the page, too.
        parameter, chosen: of the query: which lines it has.
        choices: of that parameter.
        state: all parameters of the page, as they are.
    """

    ask: Ask
    run: str
    name: str
    chart: Chart
    parameter: str
    chosen: str
    choices: tuple[str, ...]
    state: dict[str, str]

    def source(self, form: str) -> str:
        """Address of its numbers."""
        query = {self.parameter: self.chosen}
        return self.ask.href(f"/runs/{self.run}/{self.name}.{form}", **query)

    def page(self, value: str | None = None) -> str:
        """Address of the page with this chart as it is, or with another choice."""
        return self.ask.href(f"/runs/{self.run}", **self._with(value)) + f"#{self.name}"

    def part(self, value: str) -> str:
        """Address of this chart alone with another choice."""
        return self.ask.href(f"/runs/{self.run}/chart", chart=self.name, **self._with(value))

    def _with(self, value: str | None) -> dict[str, str]:
        return self.state if value is None else {**self.state, self.parameter: value}

    def rows(self) -> list[tuple[float | None, ...]]:
        return self.chart.rows(ROWS)

    def cell(self, value: float | None) -> str:
        numbers = self.ask.numbers
        if self.name == "loss":
            return numbers.fixed(value, 3)
        if self.chosen == "bytes":
            return numbers.bytes(value)
        if self.chosen == "busy":
            return numbers.percent(value)
        return numbers.fixed(value, 1) if self.chosen == "seconds" else numbers.whole(value)


# -- what all who see the same are shown -------------------------------------------------------------


def _seen(ask: Ask) -> tuple[bool, ...]:
    """All of who looks that a run's pages depend on. A ledger that is closed is another sight at once."""
    levels = (ask.sees("plans"), ask.sees("contributions"), ask.sees("scores"), ask.sees("catalog"))
    return (ask.viewer.insider, *levels, ask.known.closed)


def _live_key(ask: Ask, run: Shown) -> tuple[Hashable, ...]:
    """The page of a run that has ended gets no stream, so that it must not show what was before."""
    return ("run", ask.lang, run.name, run.view.status, _seen(ask))


def _live(ask: Ask, name: str) -> Callable[[], str]:
    """Makes the part that changes."""

    def make() -> str:
        ask.known = ask.site.known()
        return fill(ask, "run_live.html", run=shown(ask, name))

    return make


def _chart_key(ask: Ask, run: Shown, stem: str) -> tuple[Hashable, ...]:
    chosen = (ask.one_of("by", BY),) if stem == "loss" else (ask.one_of("metric", METRICS), ask.lang)
    return (run.name, stem, *chosen, _seen(ask))


async def _chart(ask: Ask, run: Shown, stem: str) -> Chart | None:
    """As the query asks for it; None where there is nothing that this viewer sees."""
    story, make = run.story, None
    if story is None:
        return None
    if stem == "loss" and story.scores and ask.sees("scores"):
        languages = charts.languages_of(ask.listings, insider=ask.viewer.insider)
        make = partial(charts.loss, story, ask.one_of("by", BY), languages)
    elif stem == "rounds" and len(story.rounds):
        metric = ask.one_of("metric", METRICS)
        make = partial(charts.rounds, story, metric, ask.text.get(f"run.metric.{metric}"))
    if make is None:
        return None
    made_of = (story, story.turn, ask.listings)
    # nobody tells the page of a run that has ended of what comes after it
    fresh_s = GAP_S if run.view.status == "running" else 0.0
    return await ask.site.charts.of(_chart_key(ask, run, stem), made_of, make, fresh_s=fresh_s)


async def _drawn(ask: Ask, run: Shown, stem: str) -> str | None:
    """A chart with its table, as the query asks for it."""
    chart = await _chart(ask, run, stem)
    if chart is None:
        return None
    by, metric = ask.one_of("by", BY), ask.one_of("metric", METRICS)
    parameter, chosen, choices = ("by", by, BY) if stem == "loss" else ("metric", metric, METRICS)
    drawn = Drawn(
        ask=ask, run=run.name, name=stem, chart=chart, parameter=parameter, chosen=chosen, choices=choices,
        state={"by": by, "metric": metric},
    )  # fmt: skip
    key = ("drawn", ask.lang, run.name, stem, by, metric, _seen(ask))
    return await ask.site.shared.of(key, (chart.serial,), lambda: fill(ask, "chart.html", drawn=drawn))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


ROUTES = (
    Route("/runs", every),
    Route("/runs/{run}", one),
    Route("/runs/{run}/live", live),
    Route("/runs/{run}/chart", part),
    Route("/runs/{run}/{chart}", data),
)
