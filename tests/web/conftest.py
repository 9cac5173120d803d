"""A dashboard in memory, without a core behind it: pages are asked through starlette's test client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tapestry.web.app import make_app
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tests.web import browser


@pytest.fixture
def site() -> Site:
    """Of nobody: no core has been heard of."""
    return Site(settings=WebSettings())


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    """A browser that signed nothing and follows no redirect."""
    with TestClient(make_app(site), base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser for all tests of a session; without one they are skipped, and it is said why."""
    try:
        with browser.started() as found:
            yield found
    except browser.NoBrowserError as e:
        pytest.skip(f"no browser: {e}")
