from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tapestry.node import exit as exits
from tests.bundle.support import NODE
from tests.bundle.worlds import ExitWorld
from tests.sim.faults import Faults


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a node that has contributed."""
    out = tmp_path_factory.mktemp("bundles") / "made"
    home = out.with_name("home")

    def then(world: ExitWorld) -> None:
        found = exits.export(world.nodes[NODE].home.root, out)
        assert found.own
        shutil.copytree(world.nodes[NODE].home.root, home)

    ExitWorld(1, then, faults=Faults(), hostile=False, lie="", loses=False).run()
    return out


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy, to be broken."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))
