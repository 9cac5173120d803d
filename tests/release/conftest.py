from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.release.support import HOLDERS, OPEN, Forge, World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With one release published; not to be changed by tests."""
    made = World(tmp_path_factory.mktemp("releases") / "core", **OPEN)
    with made.core:
        made.trained()
        made.released()
        yield made


@pytest.fixture
def repo(world: World, tmp_path: Path) -> Forge:
    """A copy of its repository, to be broken."""
    held = {name: world.pairs[name][0] for name in HOLDERS}
    return Forge(world.repository, held, world.online).copy(tmp_path / "repo")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def source(request: pytest.FixtureRequest, repo: Forge) -> Iterator[str]:
    """The copy, as a client names it: a folder, or (`BOTH`) a web server that only gives out files."""
    if getattr(request, "param", "folder") == "folder":
        yield str(repo.folder)
        return
    handler = functools.partial(Quiet, directory=str(repo.folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
