from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tests.transport.stub import CONSORTIUM, KEY, StubCore, served


@pytest.fixture(scope="module")
def server() -> Iterator[StubCore]:
    with served(StubCore()) as core:
        yield core


@pytest.fixture
def core(server: StubCore) -> StubCore:
    url = server.url
    StubCore.__init__(server)
    server.url = url
    return server


@pytest.fixture
def client(core: StubCore) -> Iterator[CoreClient]:
    with CoreClient(core.url, CONSORTIUM, KEY, parallel=3, chunk_bytes=100_000, read_s=5) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")
