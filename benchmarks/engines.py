"""Where a core keeps its log and its blobs: real servers for a benchmark, from those the tests use."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import children_of
from benchmarks.report import BlobEngine, DatabaseEngine, seconds
from tapestry.storage.bucket import Bucket
from tapestry.storage.bucket import Place as BucketPlace

KEYS_FILE = Path("keys/object_store.toml")


@dataclass(frozen=True)
class Engine:
    """A database and a place for blobs; None stands for the core's own folder."""

    database: DatabaseEngine | None = None
    blobs: BlobEngine | None = None

    def __str__(self) -> str:
        database = {None: "SQLite", "postgresql": "PostgreSQL"}[self.database]
        return f"{database}, {({None: 'folder', 's3': 'S3 (moto)'})[self.blobs]}"


PLAIN = Engine()


@dataclass(frozen=True)
class Place:
    """Settings of a core that say where its database and blobs are, and processes that serve those."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)


class Servers:
    """Those that run as long as the benchmark."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stack = ExitStack()
        self._postgresql: Any = None

    @contextmanager
    def place(self, engine: Engine, core: Path) -> Iterator[Place]:
        """For a core in folder `core`, a database and bucket of its own.

        The S3 service keeps all it is given in memory, so each bucket has a service of its own, which
        ends with the block.
        """
        settings: dict[str, Any] = {}
        with ExitStack() as stack:
            if engine.database == "postgresql":
                settings["database"] = self._new_database()
            pids = {}
            if engine.blobs == "s3":
                service, pids["moto"] = stack.enter_context(_s3(self._root))
                settings |= {"blobs": f"{service.bucket()}/blobs", "object_store": {"endpoint": service.url}}
                _write_keys(core)
            yield Place(settings, pids)

    def _new_database(self) -> str:
        if self._postgresql is None:
            from tests import postgresql

            self._postgresql = self._stack.enter_context(postgresql.server())
        return str(self._postgresql.database())

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def _s3(folder: Path) -> Iterator[tuple[Any, int]]:
    """A service, and its process."""
    from tests import object_store

    if not (Path(sys.executable).with_name("moto_server").exists() or shutil.which("moto_server")):
        sys.exit("there is no S3 service to measure with: moto_server is not installed")
    before = set(children_of(os.getpid()))
    with object_store.server(folder) as service:
        yield service, next(iter(set(children_of(os.getpid())) - before))


def _write_keys(core: Path) -> None:
    from tests.object_store import KEYS

    path = core / KEYS_FILE
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in KEYS.items()))
    path.chmod(0o600)


def s3_seconds(root: Path, payloads: int, payload_bytes: int, *, repeat: int) -> list[float]:
    """Seconds in which the S3 service alone, with nothing else running, takes so many payloads, four at once,
    as a core sends them."""
    from tests.object_store import KEYS

    path = root / "payload"
    path.write_bytes(secrets.token_bytes(payload_bytes))
    with _s3(root) as (service, _), ThreadPoolExecutor(4) as pool:
        bucket = Bucket(BucketPlace(url=service.bucket(), endpoint=service.url, credentials=KEYS))

        def put() -> None:
            names = [secrets.token_hex(16) for _ in range(payloads)]
            list(pool.map(lambda name: bucket.upload(path, name), names))

        return seconds(put, repeat=repeat + 1)[1:]
