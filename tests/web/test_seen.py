"""What is seen follows what lets its viewer look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import httpx
import pytest
from starlette.testclient import TestClient

from tapestry.web.app import make_app
from tapestry.web.cookies import cookie_name
from tests.web.served import served
from tests.web.world import Dashboard, World


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("watched")
    with (world := World(folder / "core")).core:
        yield Dashboard(world.live(), folder)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_live_view_ends_with_its_session(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """The control: somebody who stays is told further."""
    monkeypatch.setattr("tapestry.web.live.GAP_S", 0.02)
    monkeypatch.setattr("tapestry.web.live.BEAT_S", 0.1)
    board.site.live.closed = False  # another test's server ended it
    with served(make_app(board.site)) as url:
        cookie = board.cookie("bob", url)
        headers = {"Cookie": f"{cookie_name(url)}={cookie}"}
        with httpx.stream("GET", f"{url}/en/runs/run/live", headers=headers, timeout=10) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            while not next(lines).startswith("data:"):
                pass
            if leaves:
                board.site.sessions.leave(cookie)
            beats = list(islice((line for line in lines if line == ": still here"), 4))
    assert (len(beats) < 4) == leaves


@pytest.mark.parametrize("level", ["public", "consortium"])
def test_members_may_be_public_where_the_charter_is_not(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """Titles and roles stand in the charter. The control: it is public too."""
    governance = board.known.assembly.governance
    charter = governance.charter
    assert charter is not None
    named = {**charter.members, "ada": charter.members["ada"].model_copy(update={"title": "Ada of Altona"})}
    public = charter.public.model_copy(update={"charter": level, "members": "public"})
    changed = charter.model_copy(update={"members": named, "public": public})
    changed_too = governance.model_copy(update={"charter": changed})
    held = replace(board.known, assembly=replace(board.known.assembly, governance=changed_too))
    monkeypatch.setattr(board.follower, "known", held)
    with TestClient(make_app(board.site), base_url="http://127.0.0.1") as browser:
        page = browser.get("/en/members/ada").text
    assert ("Ada of Altona" in page, "steward" in page) == ((level == "public"),) * 2
