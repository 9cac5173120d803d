from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import object_store, postgresql

settings.register_profile("tapestry", deadline=None)  # others share the cores; pytest's own limit stands
settings.load_profile("tapestry")


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgresql.Server]:
    """A PostgreSQL server; it starts when the first test asks for it."""
    with postgresql.server() as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_store.Server]:
    """An S3 service; it starts when the first test asks for it."""
    with object_store.server(tmp_path_factory.mktemp("s3")) as server:
        yield server
