from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.support import CoreUnderTest


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    """A core that is not started yet."""
    core = CoreUnderTest(tmp_path / "core")
    yield core
    core.close()


@pytest.fixture
def serving(core: CoreUnderTest) -> CoreUnderTest:
    return core.start()
