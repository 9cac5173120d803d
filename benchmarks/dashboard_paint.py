"""How soon a real browser shows something of each page, and what a page takes over the wire.

Chromium opens each page with nothing in its cache; it says itself when it first painted (W3C Paint Timing)
and how many bytes came, pictures, scripts and styles included (`transferSize` of W3C Resource Timing).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.web import browser

SAID: Final = """() => ({
  paint: (performance.getEntriesByName('first-paint')[0] || {startTime: null}).startTime,
  content: (performance.getEntriesByName('first-contentful-paint')[0] || {startTime: null}).startTime,
  bytes: [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, each) => sum + each.transferSize, 0),
})"""


@dataclass(frozen=True)
class Painted:
    """One page. Times in milliseconds, one of each visit; `wire` are bytes of the largest visit."""

    page: str
    paint: list[float]
    content: list[float]
    wire: int

    @property
    def median(self) -> float:
        return statistics.median(self.paint)


def painted(url: str, pages: Sequence[str], times: int) -> list[Painted]:
    """Raises `tests.web.browser.NoBrowserError`."""
    with browser.started() as chromium:
        _visit(chromium, url + pages[0])  # a browser that has just started loads itself
        return [_page(chromium, url, page, times) for page in pages]


def _page(chromium: Any, url: str, page: str, times: int) -> Painted:
    seen = [_visit(chromium, url + page) for _ in range(times)]
    return Painted(
        page,
        [each["paint"] for each in seen],
        [each["content"] for each in seen],
        max(int(each["bytes"]) for each in seen),
    )


def _visit(chromium: Any, address: str) -> dict[str, float]:
    context = chromium.new_context()
    try:
        page = context.new_page()
        answer = page.goto(address, wait_until="load")
        assert answer is not None and answer.status == 200, (address, answer)
        page.wait_for_timeout(500)  # pictures and charts that scripts ask for
        while True:
            found: dict[str, float] = page.evaluate(SAID)
            if found["content"] is not None:
                return found
            page.wait_for_timeout(50)
    finally:
        context.close()
