from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.support import CoreUnderTest
from tests.node.support import NodeUnderTest

MakeNode = Callable[..., NodeUnderTest]


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    """A core that serves."""
    core = CoreUnderTest(tmp_path / "core")
    yield core.start()
    core.close()


@pytest.fixture
def make_node(core: CoreUnderTest, tmp_path: Path) -> Iterator[MakeNode]:
    """Makes joined nodes, and stops what they started."""
    nodes: list[NodeUnderTest] = []

    def make(name: str, **settings: Any) -> NodeUnderTest:
        nodes.append(NodeUnderTest(tmp_path, core, name, **settings))
        return nodes[-1]

    yield make
    for node in nodes:
        node.stop()
