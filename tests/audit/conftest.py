from __future__ import annotations

import pytest

from tests.audit.scenes import SCENES
from tests.audit.support import Ledger, made_by
from tests.core.support import CoreUnderTest


@pytest.fixture(scope="package")
def real(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Over HTTP."""
    folder = tmp_path_factory.mktemp("audit")
    return made_by(CoreUnderTest(folder / "core").start(), folder)


@pytest.fixture(scope="package")
def attested(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """The same with a witness of each merge."""
    folder = tmp_path_factory.mktemp("attested")
    return made_by(CoreUnderTest(folder / "core").start(), folder, witnesses=1)


@pytest.fixture(scope="package")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ledger]:
    """A ledger of each kind of run, by name."""
    return {name: play(tmp_path_factory.mktemp("scene") / "core") for name, play in SCENES.items()}
