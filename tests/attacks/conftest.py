from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tapestry.node import settings
from tapestry.node.home import Home
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob
from tapestry.transport.client import CoreClient
from tests.attacks.outputs import job_of
from tests.attacks.scene import Scene
from tests.attacks.support import Game, HereCore
from tests.attacks.switches import Switches
from tests.audit.support import Ledger, made_by, verify
from tests.core.support import make_plan
from tests.transport.stub import CONSORTIUM, KEY, StubCore, served

_numbers = count(1)


@pytest.fixture(autouse=True)
def switches(request: pytest.FixtureRequest) -> Iterator[Switches]:
    """A test of an attack that switches nothing off has no control, and fails."""
    switches = Switches()
    yield switches
    if request.module.__name__.rpartition(".")[2] != "test_catalog":
        assert switches.switched, "an attack without a positive control"


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HereCore]:
    """One core for all attacks, in this process, so that its defences can be switched off."""
    core = HereCore(tmp_path_factory.mktemp("attacks") / "core", blob_bytes=1 << 20, pending_bytes=32 << 20)
    core.start()
    yield core
    core.close()


@pytest.fixture
def play(core: HereCore, tmp_path: Path) -> Any:
    """Makes a run of its own: ada and bob are honest, eve attacks."""

    def make(**rules: Any) -> Game:
        number = next(_numbers)
        return Game(core, tmp_path / f"made{number}", f"run{number}", **rules)

    return make


@pytest.fixture
def game(play: Any) -> Game:
    made: Game = play()
    return made


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def stub() -> Iterator[StubCore]:
    """A core whose answers are what the test says."""
    with served(StubCore()) as stub:
        yield stub


@pytest.fixture
def client(stub: StubCore) -> Iterator[CoreClient]:
    with CoreClient(stub.url, CONSORTIUM, KEY, parallel=2, read_s=2) as client:
        yield client


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A ledger of three merges."""
    folder = tmp_path_factory.mktemp("ledger")
    return made_by(HereCore(folder / "core").start(), folder)


@pytest.fixture
def lies(real: Ledger) -> Iterator[Ledger]:
    """The true ledger, which holds before the attack and after it."""
    found = verify(real)
    yield real
    assert verify(real) == found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "node")
    home.make_folders()
    home.settings.write_text(settings.render(settings.make(member="m", name="m-1", corpus="text")))
    return home


@pytest.fixture
def job(home: Home) -> TrainJob:
    plan = make_plan(home.blobs, total=9)
    BlobStore.open(home.blobs).put(plan.to_bytes())
    return job_of(plan)
