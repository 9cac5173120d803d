"""Numbers that pages draw: bounded however long a run is, and the same in chart, table and CSV."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapestry.web
from tapestry.protocol.views import Head, NodeStanding, OpenRound, RunView
from tapestry.web.bell import Bell
from tapestry.web.charts import Chart, loss
from tapestry.web.columns import Columns
from tapestry.web.live import Live
from tapestry.web.numbers import Numbers
from tapestry.web.picture import draw
from tapestry.web.shared import Shared
from tapestry.web.story import Story
from tapestry.web.texts import Texts

SHA = "0" * 64
VENDORED = {
    "htmx/htmx.min.js": "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    "htmx/hx-sse.min.js": "18ef2761356ec1fe0bb6d92612315b37517a7c1e9856b661c5ae81fef239d103",
    "uplot/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_vendored_files_are_what_their_publishers_released() -> None:
    folder = Path(tapestry.web.__file__).parent / "static" / "vendor"
    for name, sha in VENDORED.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha
        assert (folder / name).parent.joinpath("LICENSE").is_file()


@given(st.integers(1, 400), st.integers(2, 16))
def test_columns_stay_small_and_keep_both_ends(count: int, most: int) -> None:
    columns = Columns("x", "y", most=most)
    for i in range(count):
        columns.add(float(i), float(-i))
    rows = list(columns.rows())
    assert len(rows) <= most + 1 and len(columns) == count
    assert rows[0] == (0.0, 0.0) and rows[-1] == (count - 1.0, 1.0 - count)
    assert [x for x, _ in rows] == sorted({x for x, _ in rows})


def test_a_chart_has_few_points_for_a_browser_and_all_in_its_csv() -> None:
    x = tuple(float(i) for i in range(3000))
    chart = Chart(x, (("ada", tuple(1 / (i + 1) for i in x)), ("bob", (None,) * 3000)))
    drawn = chart.drawn()
    assert len(drawn["x"]) == 400 and drawn["x"][0] == 0 and drawn["x"][-1] == 2999
    lines = chart.csv("merges").splitlines()
    assert lines[0] == "merges,ada,bob" and len(lines) == 3001 and lines[2] == "1,0.5,"


def test_a_name_is_no_formula() -> None:
    assert Chart((1.0,), (("=1+1", (2.0,)),)).csv("merges").splitlines()[0] == "merges,'=1+1"


def test_languages_are_means_by_the_bytes_they_were_measured_on() -> None:
    story = Story({"parameters": 10})
    for member, bits, size in (("ada", 2.0, 100), ("bob", 4.0, 300), ("cyd", 9.0, 5)):
        body = {"member": member, "merges": 1, "bits_per_byte": bits, "bytes": size}
        story._scored(body, None, 0)
    chart = loss(story, "language", {"ada": ["fr"], "bob": ["fr", "de"]})
    assert dict(chart.lines) == {"fr": (3.5,), "de": (4.0,), "?": (9.0,)}


def _view(**nodes: Any) -> RunView:
    at = OpenRound(
        round=1, fragment=0, phase="training", state=SHA, opened_at="2026-01-01T00:00:00.000Z",
        deadline="2026-01-01T01:00:00.000Z", quorum=2,
        nodes=tuple(NodeStanding(node=n, member=n, **fields) for n, fields in sorted(nodes.items())),
    )  # fmt: skip
    head = Head(merges=0, state=SHA, round=0)
    return RunView(
        run="run", status="running", waiting_for=None, sequence=1, plan=SHA, head=head, current=at,
        enrolled=tuple(nodes),
    )  # fmt: skip


def test_the_picture_tells_who_does_what() -> None:
    view = _view(
        a={"expected": True},
        b={"expected": True, "status": "accepted"},
        c={"expected": True, "status": "refused", "reason": "norm"},
        d={"expected": False},
        e={"expected": True, "status": "committed"},
    )
    members = {name: name for name in "abcdef"}
    before = draw(view, members, "2026-01-01T00:30:00.000Z")
    stands = {each.node: each.stand for each in before.spots}
    assert stands == {
        "a": "starting", "b": "accepted", "c": "refused", "d": "joining", "e": "sent", "f": "waiting",
    }  # fmt: skip
    after = draw(view, members, "2026-01-01T01:30:00.000Z")
    assert {each.node: each.stand for each in after.spots}["a"] == "overdue"


@pytest.mark.parametrize("count", [1, 2, 3, 18, 19, 50, 256])
def test_every_node_is_inside_the_picture(count: int) -> None:
    names = [f"n{i:03}" for i in range(count)]
    picture = draw(_view(**{n: {"expected": True} for n in names}), {n: n for n in names}, "")
    assert len(picture.spots) == count
    for spot in picture.spots:
        assert spot.r <= spot.x <= 720 - spot.r and spot.r <= spot.y <= 440 - spot.r


def test_numbers_as_each_language_writes_them() -> None:
    both = Texts.load().catalogs
    english, french = Numbers(both["en"]), Numbers(both["fr"])
    assert (english.fixed(1234.5, 1), french.fixed(1234.5, 1)) == ("1,234.5", "1\u202f234,5")
    assert (english.bytes(999), english.bytes(1500), french.bytes(1500)) == (
        "999\u00a0B",
        "1.5\u00a0kB",
        "1,5\u00a0ko",
    )
    assert english.duration(3725) == "1\u00a0h 02\u00a0min"
    assert english.day("2026-11-22") == "22 Nov 2026"
    assert english.whole(None) == "–" and english.time("") == "–"


class _Request:
    """Of a browser that goes away after so many looks."""

    def __init__(self, looks: int) -> None:
        self._looks = looks

    async def is_disconnected(self) -> bool:
        self._looks -= 1
        return self._looks < 0


def test_streams_are_few_and_say_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.web.live.GAP_S", 0.01)
    monkeypatch.setattr("tapestry.web.live.BEAT_S", 0.05)
    bell, made = Bell(), []
    live = Live(bell, Shared(), most=2)

    def make() -> str:
        made.append(bell.count)
        return f"<p>\n{bell.count}</p>"

    async def look() -> list[list[str]]:
        async def one() -> list[str]:
            answer: Any = live.stream(_Request(3), ("run",), make)  # type: ignore[arg-type]
            return [part async for part in answer.body_iterator]

        tasks = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0.005)
        third: Any = live.stream(_Request(1), ("run",), make, crowded=lambda: "<p>later</p>")  # type: ignore[arg-type]
        assert [part async for part in third.body_iterator] == [
            "retry: 30000\ndata: <p>later</p><p>\ndata: 0</p>\n\n"
        ]
        await asyncio.sleep(0.02)
        bell.ring()
        return list(await asyncio.gather(*tasks))

    with ThreadPoolExecutor(1) as pool:  # a browser of other tests has a loop in this thread
        first, second = pool.submit(asyncio.run, look()).result()
    assert first == second
    assert first[0] == "retry: 3000\ndata: <p>\ndata: 0</p>\n\n"
    assert "retry: 3000\ndata: <p>\ndata: 1</p>\n\n" in first
    assert ": still here\n\n" in first
    assert len(made) < len(first) + len(second), "one rendering is for all"
    assert live.open == 0
