"""What hostile requests are sent to: a dashboard on a consortium that shows little to the public."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from tapestry.web.app import make_app
from tapestry.web.building import Building
from tapestry.web.cookies import cookie_name
from tapestry.web.session import Sessions
from tests.web.served import served
from tests.web.world import Dashboard, World

STREAMS: Final = 3
PATIENCE_S: Final = 5.0
SECRET: Final = "a file that is not for anybody"


class Scene:
    """`bob` has signed in, who is steward and auditor; the attacker has whatever a class gives it."""

    def __init__(self, board: Dashboard, url: str, app: Any, folder: Path) -> None:
        self.board, self.url, self.app, self.folder = board, url, app, folder
        self.host = urlsplit(url).netloc
        self.cookie_name = cookie_name(url)
        once = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False, limits=once)
        self.fresh()

    def fresh(self) -> None:
        """Nobody has signed in but bob."""
        self.board.site.sessions = Sessions()
        self.bob = self.board.cookie("bob", self.url)

    def signed_in(self) -> bool:
        """Whether bob still is."""
        return self.is_member(self.bob)

    def is_member(self, cookie: str) -> bool:
        known = self.board.known
        return (
            self.board.site.sessions.viewer(cookie, known.assembly, at=known.heard_at, now=time.time())
            is not None
        )

    def ask(self, method: str, path: str, cookie: str | None = None, **more: Any) -> httpx.Response:
        """As a browser that has this cookie."""
        headers = dict(more.pop("headers", {}))
        if cookie is not None:
            headers["Cookie"] = f"{self.cookie_name}={cookie}"
        self.client.cookies.clear()
        return self.client.request(method, path, headers=headers, **more)

    def get(self, path: str, cookie: str | None = None, **more: Any) -> httpx.Response:
        return self.ask("GET", path, cookie, **more)

    def post(self, path: str, cookie: str | None = None, **more: Any) -> httpx.Response:
        """As from a page of this dashboard, where `more` does not say otherwise."""
        headers = {"Origin": self.url, **more.pop("headers", {})}
        return self.ask("POST", path, cookie, headers=headers, **more)

    def raw(self, data: bytes) -> bytes:
        """What comes back for these very bytes."""
        with socket.create_connection(("127.0.0.1", int(self.host.rpartition(":")[2])), PATIENCE_S) as sock:
            sock.sendall(data)
            sock.settimeout(0.4)
            found = b""
            try:
                while piece := sock.recv(65536):
                    found += piece
            except TimeoutError:
                pass
            except OSError:
                pass
            return found


@contextmanager
def staged(folder: Path) -> Iterator[Scene]:
    with (world := World(folder / "core")).core:
        world.live(public=False)
        world.votes.vote(world.ballot("cyd", world.names["hostile"], "no", reason=_script()))
        board = Dashboard(world, folder, streams=STREAMS)
        board.site.building = _building
        (folder / "secret.txt").write_text(SECRET)
        app = make_app(board.site)
        with served(app) as url:
            yield Scene(board, url, app, folder)


def _script() -> str:
    from tests.web.world import SCRIPT

    return SCRIPT


def _building() -> Building:
    return Building(
        home="/srv/node", member="ada", node="ada-1", running=False, level=None, publish="all", approve=True,
        left=(), waiting=(), passed=0, refused=0, last_refused=None, canaries=0, cards=(),
    )  # fmt: skip
