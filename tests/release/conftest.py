from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_server import served
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


@pytest.fixture
def source(request: pytest.FixtureRequest, repo: Forge) -> Iterator[str]:
    """The copy, as a client names it: a folder, or (`BOTH`) a web server that only gives out files."""
    if getattr(request, "param", "folder") == "folder":
        yield str(repo.folder)
        return
    with served(repo.folder) as url:
        yield url
