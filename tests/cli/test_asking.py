"""A watch goes on beside a core that hangs, says so once, and hears of it when it answers again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tapestry.cli import asking
from tapestry.cli.asking import Asking
from tapestry.errors import Unreachable
from tapestry.transport.connection import Connection, Request


class Core:
    """Answers, or not, as `what` says at that moment."""

    def __init__(self) -> None:
        self.what = "answers"
        self.asked = 0
        self._held = threading.Event()

    def ask(self) -> int:
        self.asked += 1
        if self.what == "hangs":
            self._held.wait(30)
        elif self.what == "gone":
            raise Unreachable("the core cannot be reached")
        return self.asked

    def let_go(self) -> None:
        self.what = "answers"
        self._held.set()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("EVERY_S", 0.02), ("FIRST_S", 0.2), ("SILENT_S", 0.1), ("GIVEN_UP_S", 0.3)):
        monkeypatch.setattr(asking, name, seconds)


@contextmanager
def looked(core: Core) -> Iterator[Asking[int]]:
    found = Asking(core.ask, lambda: "http://core")
    try:
        yield found
    finally:
        core.let_go()


def until(found: Asking[int], true: Callable[[int | None, str | None], bool]) -> set[str | None]:
    """All that is said meanwhile; no look takes long."""
    said, deadline = set(), time.monotonic() + 10
    while True:
        began = time.monotonic()
        answer, away = found.look()
        assert time.monotonic() - began < 1
        said.add(away)
        if true(answer, away):
            return said
        assert time.monotonic() < deadline, away
        time.sleep(0.02)


def test_the_first_look_has_an_answer(soon: None) -> None:
    with looked(Core()) as found:
        assert found.look() == (1, None)


def test_a_core_that_hangs_is_told_of_once_and_asked_on(soon: None) -> None:
    core = Core()
    with looked(core) as found:
        assert found.look() == (1, None)
        core.what = "hangs"
        said = until(found, lambda _, away: away is not None and core.asked > 3)
        (words,) = said - {None}
        assert words is not None and words.startswith("the core at http://core has not answered since ")
        core.what = "answers"
        until(found, lambda answer, away: away is None and answer is not None and answer > 3)


def test_one_that_hangs_from_the_first_question_on_holds_up_nobody(soon: None) -> None:
    core = Core()
    core.what = "hangs"
    with looked(core) as found:
        answer, away = found.look()
        assert answer is None and "has not answered since" in str(away)


def test_one_that_is_gone_is_told_of(soon: None) -> None:
    core = Core()
    core.what = "gone"
    with looked(core) as found:
        assert found.look() == (None, "the core cannot be reached")
        core.what = "answers"
        until(found, lambda answer, away: away is None and answer is not None)


def test_so_many_questions_go_on_at_once_and_no_more(soon: None) -> None:
    core = Core()
    core.what = "hangs"
    with looked(core) as found:
        until(found, lambda *_: core.asked == asking.THREADS)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            found.look()
            time.sleep(0.05)
        assert core.asked == asking.THREADS


@pytest.mark.parametrize("beside", [True, False])
def test_a_node_watches_on_beside_a_real_connection_that_drips(soon: None, beside: bool) -> None:
    """The control: asked in the way, the same core holds up the watch for as long as it likes."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not ended.wait(0.05):
                    connection.sendall(b" ")

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        asked = Connection(url, None, None, ca=None, connections=1, read_s=0.5)

        def ask() -> bytes:
            return asked.ask(Request(method="GET", path="/v1/hello", signed=False))

        threading.Timer(3.0, ended.set).start()
        began = time.monotonic()
        if beside:
            away = Asking(ask, lambda: url).look()[1]
            assert "has not answered" in str(away)
        else:
            with pytest.raises(Unreachable):
                ask()
        took = time.monotonic() - began
        ended.set()
    assert (took < 1) == beside
