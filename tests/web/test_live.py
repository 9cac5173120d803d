"""A run in a real browser: the picture moves by itself, charts are drawn, nothing in a page is run."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tapestry.protocol.messages import Progress
from tapestry.web.app import make_app
from tapestry.web.known import Known
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tapestry.web.story import Story
from tests.web.served import served
from tests.web.test_drawn import _view
from tests.web.test_pages import serious


class Still:
    """A follower of nobody: what it knows is what a test says."""

    def __init__(self) -> None:
        story = Story({"parameters": 1000})
        for merges in range(20):
            at = {"round": merges + 1, "fragment": 0}
            story._opened({**at, "opened_ms": merges * 1000, "nodes": ["a", "b"]}, None, 0)
            story._closed({**at, "merged": []}, None, 0)
            story._committed({**at, "merges": merges + 1}, None, merges * 1000 + 900)
            for member in "ab":
                score = {"member": member, "merges": merges, "bits_per_byte": 8.0 / (merges + 1), "bytes": 10}
                story._scored(score, None, 0)
        view = _view(a={"expected": True}, b={"expected": True, "status": "accepted"})
        self.known = Known(
            views={"run": view},
            stories={"run": story},
            heard_at="2026-01-01T00:00:00.000Z",
            heard_s=time.monotonic(),
        )

    def train(self, step: int) -> None:
        progress = Progress(round=1, step=step, steps=20)
        view = _view(a={"expected": True, "progress": progress}, b={"expected": True, "status": "accepted"})
        self.known = replace(self.known, views={"run": view})


@pytest.fixture
def scene() -> tuple[Still, Site]:
    still: Any = Still()
    return still, Site(settings=WebSettings(opened="member"), follower=still)


def test_the_picture_moves_and_charts_are_drawn(chromium: Any, scene: tuple[Still, Site]) -> None:
    still, site = scene
    with served(make_app(site)) as url:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{url}/en/runs/run")
        page.wait_for_selector("#loss canvas")
        assert page.locator(".s-starting .disc").count() == 1
        page.locator("#live details summary").click()
        still.train(10)
        site.bell.ring()
        page.wait_for_selector(".s-training .arc", state="attached", timeout=20_000)
        assert "10 of 20" in page.locator("#live table").inner_text()
        assert page.locator("#live details").get_attribute("open") is not None, "what was opened stays open"
        page.get_by_role("link", name="Seconds").click()
        page.wait_for_selector("#rounds .segments a[aria-current]:has-text('Seconds')")
        page.wait_for_selector("#rounds canvas")
        assert "metric=seconds" in page.url
        page.locator("#loss .u-legend .u-series th", has_text="a").first.click()
        page.wait_for_function("location.search.includes('hide-loss')")
        page.reload()
        page.wait_for_selector("#loss .u-legend .u-off")
        assert page.evaluate("document.documentElement.dataset.theme") is None
        page.locator("[data-theme-toggle]").click()
        assert page.evaluate("document.documentElement.dataset.theme") in ("dark", "light")
        assert not said, said
        page.close()


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_axe_finds_nothing_serious_while_a_run_goes_on(
    chromium: Any, scene: tuple[Still, Site], dark: bool, width: int
) -> None:
    still, site = scene
    still.train(10)
    held = replace(site.settings, streams=1)
    for settings in (site.settings, held):  # live, and told to wait
        site = Site(settings=settings, follower=still)  # type: ignore[arg-type]
        site.live.open = 1 if settings is held else 0
        with served(make_app(site)) as url:
            scheme: Any = "dark" if dark else "light"
            context = chromium.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            for path in ("/", "/runs", "/runs/run"):
                page.goto(f"{url}/{'fr' if dark else 'en'}{path}")
                if path == "/runs/run":
                    page.wait_for_selector("#loss canvas")
                    if settings is held:
                        page.wait_for_selector("#live [data-crowded]")
                assert not serious(page)
                assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path
            context.close()


@pytest.mark.parametrize("late", ["hx-sse", "htmx.min", "app."])
def test_a_slow_line_does_not_leave_the_picture_still(
    chromium: Any, scene: tuple[Still, Site], late: str
) -> None:
    _, site = scene
    with served(make_app(site)) as url:
        page = chromium.new_context().new_page()

        def held(route: Any) -> None:
            time.sleep(0.5)
            route.continue_()

        page.route(re.compile(rf"/{re.escape(late)}[^/]*js$"), held)
        page.goto(f"{url}/en/runs/run")
        _until(lambda: site.live.open == 1)
        page.context.close()


def test_whoever_finds_no_room_is_told_so_and_sees_what_there_is(chromium: Any) -> None:
    still: Any = Still()
    site = Site(settings=WebSettings(opened="member", streams=1), follower=still)
    with served(make_app(site)) as url:
        first, second = (chromium.new_context().new_page() for _ in range(2))
        first.goto(f"{url}/en/runs/run")
        _until(lambda: site.live.open == 1)
        second.goto(f"{url}/en/runs/run")
        second.wait_for_selector("#live [data-crowded]")
        assert "every 30 seconds" in second.inner_text("#live [data-crowded]")
        assert second.locator("#live svg.weave").count() == 1 and site.live.open == 1
        assert first.locator("[data-crowded]").count() == 0
        first.context.close()
        second.context.close()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_that_stands_in_a_page_is_run(chromium: Any, scene: tuple[Still, Site]) -> None:
    """The control: without the policy the same script runs."""
    _, site = scene
    app = make_app(site)
    ran = {}
    for policy in (True, False):
        with served(app) as url:
            context = chromium.new_context(bypass_csp=not policy)
            page = context.new_page()
            page.goto(f"{url}/en/")
            page.evaluate(
                "() => { const s = document.createElement('script'); s.textContent = 'window.ran = true';"
                " document.body.append(s); }"
            )
            ran[policy] = page.evaluate("window.ran === true")
            context.close()
    assert ran == {True: False, False: True}
