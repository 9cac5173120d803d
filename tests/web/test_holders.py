"""Nobody has all live views: each member and each address has some, also behind a proxy on this machine."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from tapestry.web.bell import Bell
from tapestry.web.holders import MACHINE, holder_of
from tapestry.web.live import Live
from tapestry.web.settings import WebSettings
from tapestry.web.shared import Shared
from tapestry.web.viewers import ANYBODY, INSIDER, Viewer
from tests.web.served import run_apart

ADA = Viewer(frozenset({"public", "member"}), member="ada")


def asked(peer: str | None, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return Request({"type": "http", "headers": headers, "client": (peer, 1234) if peer else None})


@pytest.mark.parametrize(
    ("peer", "forwarded", "holder"),
    [
        ("192.0.2.7", (), "192.0.2.7"),
        ("::ffff:192.0.2.7", (), "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ("192.0.2.7", ("198.51.100.1",), "192.0.2.7"),  # no proxy of ours: its word is nothing
        ("127.0.0.1", (), MACHINE),
        ("127.0.0.1", ("198.51.100.1",), "198.51.100.1"),
        ("::1", ("203.0.113.9, 198.51.100.1",), "198.51.100.1"),  # the rest is the viewer's own word
        ("127.0.0.1", ("203.0.113.9", "198.51.100.1"), "198.51.100.1"),
        ("127.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::/64"),
        ("127.0.0.1", ("198.51.100.1:4711",), "198.51.100.1"),
        ("127.0.0.1", ("nobody",), MACHINE),
        ("127.0.0.1", ("127.0.0.1",), MACHINE),
        (None, (), MACHINE),
    ],
)
def test_whose_a_view_is(peer: str | None, forwarded: tuple[str, ...], holder: str) -> None:
    for viewer in (ANYBODY, INSIDER):
        assert holder_of(WebSettings(), asked(peer, *forwarded), viewer) == holder
    assert holder_of(WebSettings(), asked(peer, *forwarded), ADA) == "member ada"


def test_a_proxy_elsewhere_is_one_that_was_named() -> None:
    through = asked("10.1.2.3", "198.51.100.1")
    assert holder_of(WebSettings(), through, ANYBODY) == "10.1.2.3"
    assert holder_of(WebSettings(proxies=("10.0.0.0/8",)), through, ANYBODY) == "198.51.100.1"


class Stays:
    async def is_disconnected(self) -> bool:
        return False


async def opened(live: Live, holder: str, count: int) -> list[Any]:
    """So many views, of which each has had its first part; those that were let in go on."""
    streams = []
    for _ in range(count):
        answer: Any = live.stream(
            Stays(), ("run",), lambda: "now", holder=holder, crowded=lambda: "later "  # type: ignore[arg-type]
        )  # fmt: skip
        stream = answer.body_iterator
        await anext(stream)
        streams.append(stream)
    return streams


async def closed(streams: list[Any]) -> None:
    for each in streams:
        await each.aclose()


@pytest.mark.parametrize("each", [4, None])
def test_one_viewer_leaves_room_for_others(each: int | None) -> None:
    """The control: where a holder may have all, there is none left."""

    async def look() -> tuple[int, int]:
        live = Live(Bell(), Shared(), 20, each)
        greedy = await opened(live, "192.0.2.7", 30)
        held = live.open
        others = await opened(live, "member ada", 2) + await opened(live, "198.51.100.1", 2)
        more = live.open - held
        await closed(greedy + others)
        assert live.open == 0 and not live._held
        return held, more

    assert run_apart(look()) == ((4, 4) if each else (20, 0))


def test_this_machine_has_more_but_not_all() -> None:
    async def look() -> None:
        live = Live(Bell(), Shared(), 20, 4)
        own = await opened(live, MACHINE, 30)
        assert live.open == 15
        others = await opened(live, "member ada", 1)
        assert live.open == 16
        await closed(own + others)

    run_apart(look())


def test_whoever_must_wait_sees_what_there_is_and_is_told_to_come_again() -> None:
    async def look() -> None:
        live = Live(Bell(), Shared(), 20, 1)
        first = await opened(live, "192.0.2.7", 1)
        answer: Any = live.stream(
            Stays(), ("run",), lambda: "now", holder="192.0.2.7", crowded=lambda: "later "  # type: ignore[arg-type]
        )  # fmt: skip
        assert [part async for part in answer.body_iterator] == ["retry: 30000\ndata: later now\n\n"]
        await closed(first)
        again = await opened(live, "192.0.2.7", 1)
        assert live.open == 1
        await closed(again)

    run_apart(look())
