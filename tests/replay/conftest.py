from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.storage.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore.open(tmp_path / "blobs")
