"""Every page in a real browser: no stranger's script runs, nothing is loaded from elsewhere, nothing is wider
than a phone, and axe finds nothing serious, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tapestry.web.app import make_app
from tapestry.web.building import Building, CardInUse, Left, Waiting
from tapestry.web.cookies import cookie_name
from tests.web.served import served
from tests.web.world import SCRIPT, Dashboard, World

PATHS: Final = (
    "/",
    "/runs",
    "/runs/run",
    "/members",
    "/members/ada",
    "/data",
    "/decisions",
    "/decisions/{hostile}",
    "/decisions/charter",
    "/desk",
    "/desk/audit",
    "/ledger",
    "/ledger/20",
    "/releases",
    "/mine",
    "/login",
    "/nothing",
)
SOME: Final = ("/", "/runs/run", "/decisions/{hostile}", "/ledger/20", "/mine")
"""Of every kind of thing on a page; axe takes a second of each."""
MORE: Final = (
    "/runs/run?by=language&metric=seconds",
    "/members/bob",
    "/data?q=nothing-like-that",
    "/ledger?kind=ballot-cast",
    "/ledger?member=nobody",
    "/decisions/{phase}",
)
"""What they look like with other parameters."""
WIDTHS: Final = (360, 768, 1280)
MENU_CUT: Final = """() => {
    const pages = document.querySelector(".pages");
    const edge = pages.getBoundingClientRect().right + 12;
    return [...pages.querySelectorAll("a")].filter((each) => each.getBoundingClientRect().right > edge)
        .map((each) => each.textContent);
}"""
"""Sections whose link ends beyond the menu."""
SERIOUS: Final = {"serious", "critical"}


def building() -> Building:
    left = Left(time=1.8e9, kind="delta-shard", name=SCRIPT, count=1, bytes=694176, sha256="a" * 64)
    waiting = Waiting(name="run.3", since=1.8e9, artifacts=2, bytes=1234, digest="b" * 64)
    card = CardInUse(
        name="letters", category="private", languages=("en", "fr"), licence="LicenseRef-private", documents=2,
        bytes=59, stages=("base",), withdrawn=True,
    )  # fmt: skip
    return Building(
        home="/srv/node", member="ada", node="ada-1", running=True, level="netns", publish="all",
        approve=True, left=(left,) * 60, waiting=(waiting,),
        passed=3, refused=1, last_refused="an update that is not finite", canaries=10, cards=(card,),
        trouble="the core is away",
    )  # fmt: skip


class Tour:
    """Pages of one dashboard, as bob sees them."""

    def __init__(self, board: Dashboard, url: str, chromium: Any) -> None:
        self.board, self.url, self._chromium = board, url, chromium

    def context(self, *, width: int = 1280, dark: bool = False) -> Any:
        context = self._chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        context.add_cookies(
            [
                {"name": cookie_name(self.url), "value": self.board.cookie("bob", self.url), "url": self.url},
                {
                    "name": f"tapestry-mine-{self.url.rpartition(':')[2]}",
                    "value": self.board.site.owner_key,
                    "url": self.url,
                },
            ]
        )
        return context

    def path(self, path: str, language: str = "en") -> str:
        return f"{self.url}/{language}" + path.format(**self.board.world.names)


@pytest.fixture(scope="module")
def tour(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    folder = tmp_path_factory.mktemp("pages")
    with (world := World(folder / "core")).core:
        board = Dashboard(world.live(), folder)
        board.site.building = building
        with served(make_app(board.site)) as url:
            yield Tour(board, url, chromium)


def test_no_stranger_runs_anything_and_nothing_comes_from_elsewhere(tour: Tour) -> None:
    context = tour.context()
    said: list[str] = []
    foreign: list[str] = []
    page = context.new_page()
    page.on("dialog", lambda each: (said.append(f"dialog {each.message}"), each.dismiss()))
    page.on("console", lambda each: said.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda each: said.append(str(each)))
    page.on("request", lambda each: foreign.append(each.url) if not each.url.startswith(tour.url) else None)
    for path in PATHS:
        page.goto(tour.path(path), wait_until="load")
        assert page.evaluate("() => document.querySelectorAll('main h1').length") == 1, path
    context.close()
    assert [each for each in said if "404" not in each] == []
    assert [each for each in foreign if not each.startswith(tour.url)] == []


def test_a_script_in_a_page_would_not_run(tour: Tour) -> None:
    """The control: with escaping off, the policy alone keeps it from running; without that it would."""
    from tests.web.hostile import switches

    scene: Any = None
    for open_to_all, expected in ((False, 0), (True, 1)):
        context = tour.context()
        page = context.new_page()
        alerts: list[str] = []
        page.on("dialog", lambda each, alerts=alerts: (alerts.append(each.message), each.dismiss()))
        with switches.escaping(scene):
            if open_to_all:
                with switches.policy(scene):
                    page.goto(tour.path("/decisions/{hostile}"))
            else:
                page.goto(tour.path("/decisions/{hostile}"))
        context.close()
        assert bool(alerts) == bool(expected)


def serious(page: Any) -> list[str]:
    """What axe finds."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page).response
    assert results["passes"], page.url
    found = [each for each in results["violations"] if each["impact"] in SERIOUS]
    return [f"{page.url} {each['id']} {node['target']}" for each in found for node in each["nodes"][:3]]


def unfolded(page: Any) -> None:
    """All that a page can show: what is folded, and a proof that was worked out."""
    page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    if page.locator("[data-verify]").count():
        page.click("[data-verify]")
        page.wait_for_selector("[data-verdict][data-ok=holds]")


@pytest.mark.parametrize(
    ("dark", "width", "paths"),
    [
        pytest.param(False, 1280, SOME, id="some"),
        *(
            pytest.param(dark, width, (*PATHS, *MORE), id=f"{name}-{width}", marks=pytest.mark.long)
            for dark, name in ((False, "light"), (True, "dark"))
            for width in WIDTHS
        ),
    ],
)
def test_axe_finds_nothing_serious(tour: Tour, dark: bool, width: int, paths: tuple[str, ...]) -> None:
    context = tour.context(dark=dark, width=width)
    page, found = context.new_page(), []
    for path in paths:
        page.goto(tour.path(path, "fr" if dark else "en"))
        unfolded(page)
        found += serious(page)
    assert not found, "\n".join(found)
    page.evaluate("() => document.querySelector('main').append(document.createElement('button'))")
    assert serious(page), "the control: a button without a name"
    context.close()


@pytest.mark.long
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(tour: Tour, width: int) -> None:
    context = tour.context(width=width)
    page = context.new_page()
    for path in PATHS:
        page.goto(tour.path(path))
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path
    context.close()


@pytest.mark.long
@pytest.mark.parametrize("language", ["en", "fr"])
def test_no_part_of_the_menu_is_cut_off_at_any_width(tour: Tour, language: str) -> None:
    context = tour.context()
    page = context.new_page()
    page.goto(tour.path("/runs", language))
    for width in (320, *WIDTHS, 900, 1055, 1057, 1100):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(MENU_CUT) == [], width
    page.evaluate("() => { document.querySelector('.pages ul').style.flexWrap = 'nowrap'; }")
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate(MENU_CUT), "the control: a menu that stays in one line"
    context.close()
