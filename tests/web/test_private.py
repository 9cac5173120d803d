"""What a charter makes private a dashboard shows no more, and keeps no more, though it has read it before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tapestry.governance import proposal as subjects
from tapestry.governance.charter import Public
from tapestry.web.app import make_app
from tapestry.web.follow import Follower
from tapestry.web.settings import WebSettings
from tapestry.web.site import Site
from tests.web.followed import caught_up, core_of, end, follower, source
from tests.web.world import SHOWN, World

PAGES = ("/runs/run", "/data", "/decisions", "/ledger", "/ledger/7", "/ledger/7/proof", "/members/ada")
OLD_S = 1.2
"""After so long a core's answer to anybody is no older than the question."""
OPEN = dict.fromkeys(SHOWN, "public")


@pytest.fixture
def world(tmp_path: Path) -> Any:
    with (made := World(tmp_path / "core")).core:
        yield made.live()
    end()


def change(world: World, **levels: str) -> None:
    """By a vote."""
    charter = world.votes.assembly().governance.charter
    assert charter is not None
    fields = {"revision": charter.revision + 1, "public": Public.model_validate(levels)}
    world.passed(subjects.ChangeCharter(charter=charter.model_copy(update=fields)))


def until(found: Follower, true: Callable[[], bool]) -> None:
    """What a core tells anybody is up to a second old."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, found.known.trouble
        found.step()
        time.sleep(0.1)


def shown(site: Site) -> dict[str, tuple[int, str]]:
    with TestClient(make_app(site), base_url="http://127.0.0.1") as client:
        answers = {path: client.get(f"/en{path}") for path in PAGES}
        answers["/"] = client.get("/en/")
    return {path: (each.status_code, each.text) for path, each in answers.items()}


@pytest.mark.parametrize("drops", [True, False])
def test_a_ledger_that_turns_private_is_dropped(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    """The control: a follower that only remembers that it was refused goes on showing it."""
    if not drops:
        monkeypatch.setattr(Follower, "_close", lambda self: self._tell(closed=True))
    with core_of(world.root) as (url, _):
        found = follower(source(url), tmp_path / "web")
        site = Site(settings=WebSettings(), follower=found)
        assert {status for status, _ in shown(site).values()} == {200}
        count = found.account().runs["run"].merges
        assert count == 3 and site.index.size == found.book.size > 0
        change(world)
        until(found, lambda: found.known.closed)
        until(found, lambda: found.known.shown_charter is not None)
        after = shown(site)
        held = (tmp_path / "web" / "ledger.jsonl").read_bytes()
    if not drops:
        assert after["/ledger/7"][0] == 200 and held
        return
    assert {path for path, (status, _) in after.items() if status == 200} == {"/", "/members/ada"}
    assert held == b"" and not found.book.size and not found.known.states and not found.known.stories
    assert found.account().runs == {} and not found.known.listings
    words = after["/"][1] + after["/members/ada"][1]
    assert not any(word in words for word in ("letters", "/runs/run", "entries"))


def test_what_is_opened_again_is_read_anew(world: World, tmp_path: Path) -> None:
    with core_of(world.root) as (url, _):
        found = follower(source(url), tmp_path / "web")
        site = Site(settings=WebSettings(), follower=found)
        shown(site)
        change(world)
        until(found, lambda: found.known.closed)
        change(world, **OPEN)
        size = world.core.journal.tree_head()[0]
        until(found, lambda: not found.known.closed and found.known.size == size)
        assert {status for status, _ in shown(site).values()} == {200}
        assert found.book.size == site.index.size == size
        assert found.known.broken is None and found.known.trouble is None


def test_a_catalog_that_turns_private_while_the_ledger_is_not(world: World, tmp_path: Path) -> None:
    """With the charter, and not when the catalog is asked for the next time."""
    with core_of(world.root) as (url, _):
        found = follower(source(url), tmp_path / "web")
        site = Site(settings=WebSettings(), follower=found)
        assert found.known.listings == () and shown(site)["/data"][0] == 200
        change(world, **{**OPEN, "catalog": "consortium"})
        time.sleep(OLD_S)
        caught_up(found)  # in no trouble
        assert found.known.listings is None
        after = shown(site)
    assert (after["/data"][0], after["/ledger/7"][0]) == (403, 200)
