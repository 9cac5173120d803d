"""What many see is worked out once; what has changed, anew; and no more of it is held than so much."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import httpx
import pytest

from tapestry.governance import proposal as subjects
from tapestry.web import charts, deciding, live, released
from tapestry.web.app import make_app
from tapestry.web.index import Index
from tapestry.web.pages import data, decisions, ledger, members, runs
from tapestry.web.settings import WebSettings
from tapestry.web.shared import Shared
from tapestry.web.site import Site
from tapestry.web.viewers import What
from tests.web.served import run_apart
from tests.web.test_live import Still
from tests.web.world import Dashboard, World

VIEWERS = 50
PARTS = get_args(What)
LOSS = "bits per byte, mean over members"
PAGES = {
    "/en/decisions": (deciding, "listed"),
    "/en/decisions/charter": (decisions, "check"),
    "/en/decisions/{hostile}": (deciding, "shown"),
    "/en/data": (data, "coverage"),
    "/en/data?q=letters&language=en": (data, "search"),
    "/en/ledger?member=ada": (ledger, "_found"),
    "/en/ledger?kind=ballot-cast&page=2": (Index, "values"),
    "/en/releases": (released, "tree"),
}
"""Of each page what takes its time."""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    folder = tmp_path_factory.mktemp("shared")
    with (world := World(folder / "core")).core:
        yield Dashboard(world.live(), folder)


class Counted:
    """How often a function is called; it takes a while, so that all who ask are there meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls = 0
        real: Callable[..., Any] = getattr(owner, name)
        lock = threading.Lock()

        def slow(*args: Any, **named: Any) -> Any:
            with lock:
                self.calls += 1
            time.sleep(0.02)
            return real(*args, **named)

        patch.setattr(owner, name, slow)


def views(board: Dashboard, path: str, count: int = VIEWERS) -> set[str]:
    """What so many viewers at once are shown."""

    async def look() -> set[str]:
        transport = httpx.ASGITransport(make_app(board.site))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answers = await asyncio.gather(*(client.get(path) for _ in range(count)))
        assert {answer.status_code for answer in answers} == {200}
        return {answer.text for answer in answers}

    return run_apart(look())


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("shared", [True, False])
def test_a_page_is_worked_out_once_for_fifty(
    board: Dashboard, monkeypatch: pytest.MonkeyPatch, path: str, shared: bool
) -> None:
    """The control: with nothing held it is worked out for each."""
    count = Counted(monkeypatch, *PAGES[path])
    monkeypatch.setattr(board.site, "shared", Shared() if shared else Unshared())
    few = VIEWERS if shared else 4
    views(board, path.format(**board.world.names), few)
    views(board, path.format(**board.world.names), few)
    each = count.calls / (1 if shared else 2 * few)
    assert each in (1, 3), "the lists to choose from are three"


def test_phases_are_reckoned_once_a_second(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Counted(monkeypatch, deciding, "phases")
    views(board, "/en/decisions")
    assert 1 <= count.calls < VIEWERS / 5


class Unshared(Shared):
    async def of(self, name: Any, made_of: Any, make: Callable[[], Any], *, fresh_s: float = 0.0) -> Any:
        return await asyncio.to_thread(make)


def test_what_has_changed_is_worked_out_anew(board: Dashboard) -> None:
    board.site.shared = Shared()
    (before,) = views(board, "/en/decisions", 1)
    size = board.known.size
    proposal = board.world.propose("bob", subjects.Expel(member="dan"))
    assert proposal not in before + "".join(views(board, "/en/decisions", 1)), "nothing was heard of it yet"
    board.again()
    assert board.known.size > size
    (after,) = views(board, "/en/decisions", 1)
    assert proposal in after
    (found,) = views(board, "/en/ledger?kind=proposal-opened", 1)
    assert f"/ledger/{board.known.size}" in found


def test_a_run_that_goes_on_is_drawn_for_all_and_not_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """While entries come, a chart is some moments old; when that is over, it is drawn anew."""
    still: Any = Still()
    board: Any = SimpleNamespace(site=Site(settings=WebSettings(opened="member"), follower=still))
    for each in (runs, live):
        monkeypatch.setattr(each, "GAP_S", 1e6)
    drawn, filled = Counted(monkeypatch, charts, "loss"), Counted(monkeypatch, runs, "shown")
    (before,) = views(board, "/en/runs/run")
    assert drawn.calls == 1 and filled.calls == VIEWERS + 1, "each asks whether there is such a run"
    story = still.known.stories["run"]
    said = {"member": "a", "merges": 20, "bits_per_byte": 0.125, "bytes": 10}
    story.take(SimpleNamespace(type="score-published", body=said), None, 0)
    assert views(board, "/en/runs/run") == {before} and drawn.calls == 1
    for each in (runs, live):
        monkeypatch.setattr(each, "GAP_S", 0.0)
    (after,) = views(board, "/en/runs/run")
    assert drawn.calls == 2 and "0.125" in after and "0.125" not in before


@pytest.mark.parametrize("apart", [True, False])
def test_who_sees_less_is_never_shown_what_another_was(monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """Within the moments in which all are shown the same. The control: with keys that say nothing of who
    looks the public sees what members do."""
    for each in (runs, live, members):
        monkeypatch.setattr(each, "GAP_S", 1e6)
    if not apart:
        monkeypatch.setattr(runs, "_seen", lambda _: ())
    still: Any = Still()
    still.train(10)
    view = still.known.views["run"]
    site = Site(settings=WebSettings(opened="member"), follower=still)
    board: Any = SimpleNamespace(site=site)
    paths = ("/en/runs/run", "/fr/runs/run", "/en/runs/run/loss.json", "/en/runs/run/chart?chart=loss")
    inside = [views(board, path, 1).pop() for path in paths]
    assert inside[0] != inside[1] and '"lines"' in inside[2] and view.current is not None
    site.settings = replace(site.settings, opened="public")
    levels = SimpleNamespace(**dict.fromkeys(PARTS, "public") | {"scores": "members"})
    charter: Any = SimpleNamespace(public=levels)
    still.known = replace(still.known, shown_charter=charter)
    shown = views(board, paths[0], 1).pop()
    assert (LOSS in shown) != apart and LOSS in inside[0] and 'id="loss"' not in shown
    assert ('id="rounds"' in shown) and shown != views(board, paths[1], 1).pop()


def test_what_a_closed_ledger_gave_is_forgotten() -> None:
    still: Any = Still()
    board: Any = SimpleNamespace(site=Site(settings=WebSettings(opened="member"), follower=still))
    views(board, "/en/runs/run", 1)
    assert len(board.site.shared) and len(board.site.charts)
    still.known = replace(still.known, closed=True)
    board.site.known()
    assert not len(board.site.shared) and not len(board.site.charts)


def test_the_page_of_a_run_that_has_ended_has_its_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "GAP_S", 1e6)
    still: Any = Still()
    board: Any = SimpleNamespace(site=Site(settings=WebSettings(opened="member"), follower=still))
    views(board, "/en/runs/run", 1)
    said = {"member": "a", "merges": 20, "bits_per_byte": 0.125, "bytes": 10}
    still.known.stories["run"].take(SimpleNamespace(type="score-published", body=said), None, 0)
    view = still.known.views["run"]
    still.known = replace(still.known, views={"run": view.model_copy(update={"status": "finished"})})
    assert "0.125" in views(board, "/en/runs/run", 1).pop()


def test_a_catalog_that_stays_the_same_stays_good(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: one that has changed is worked out anew."""
    count = Counted(monkeypatch, data, "coverage")
    board.site.shared = Shared()
    board.follower._catalog_at = -1e9
    board.again()
    views(board, "/en/data", 1)
    board.follower._catalog_at = -1e9
    board.again()
    views(board, "/en/data", 1)
    assert count.calls == 1
    board.world.now += 1000  # by which it is published
    board.follower._catalog_at = -1e9
    board.again()
    views(board, "/en/data", 1)
    assert count.calls == 2


def test_a_repository_is_read_when_it_has_a_newer_list(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    assert released.newest_list(tmp_path) is None
    seen = []
    for name in ("2.targets.json", "1.targets.json", "10.targets.json"):
        (folder / name).write_text("{}")
        seen.append(released.newest_list(tmp_path))
    assert seen[0] == seen[1] != seen[2]
    (folder / "10.targets.json").write_text("{ }")
    assert released.newest_list(tmp_path) != seen[2]


def test_only_so_much_is_held() -> None:
    async def many() -> Shared:
        shared = Shared(most=8)
        for number in range(100):
            assert await shared.of(number, (), lambda number=number: number) == number
        return shared

    assert len(run_apart(many())) == 8


def test_what_changes_all_the_time_is_begun_anew_when_it_has_ended_a_while_ago() -> None:
    async def asked() -> list[int]:
        shared, made = Shared(), []

        def slow() -> int:
            time.sleep(0.05)
            made.append(1)
            return len(made)

        both = [shared.of("it", (number,), slow, fresh_s=0.02) for number in range(2)]
        found = list(await asyncio.gather(*both))  # longer at it than it is fresh
        found.append(await shared.of("it", (2,), slow, fresh_s=0.02))
        await asyncio.sleep(0.04)
        found.append(await shared.of("it", (3,), slow, fresh_s=0.02))
        return [*found, await shared.of("it", (4,), slow)]

    assert run_apart(asked()) == [1, 1, 1, 2, 3]


def test_what_failed_is_tried_again_and_whoever_leaves_takes_nothing_along() -> None:
    async def tried() -> None:
        shared, calls = Shared(), []

        def fails() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("not this time")
            time.sleep(0.05)
            return "made"

        with pytest.raises(ValueError):
            await shared.of("it", (), fails)
        leaves = asyncio.ensure_future(shared.of("it", (), fails))
        stays = asyncio.ensure_future(shared.of("it", (), fails))
        await asyncio.sleep(0.01)
        leaves.cancel()
        assert await stays == "made" and len(calls) == 2

    run_apart(tried())
