"""The replay worker has no network: where blobs live in an object store, what it reads is brought into the
folder before, and what it wrote is in the object store before any event can record it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tapestry.core.coordinator import Replay
from tapestry.core.service import Core
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.replay.client import Replayer
from tapestry.replay.inputs import artifact_blobs, merge_blobs
from tapestry.replay.job import MergeJob, MergeResult, OverlapJob, Overlapped, SketchAt
from tapestry.storage.blobs import BlobStore
from tapestry.storage.tiered import TieredStore


def replayer_of(core: Core) -> Replayer:
    """A worker over a core's folder of blobs; started with its first merge."""
    threads = max(1, min(8, os.cpu_count() or 1))
    log = core.home.log.with_name("replay.log")
    return Replayer(core.store.root, threads=threads, log_path=log, sketches=core.home.sketches)


def staged(replay: Replay, store: BlobStore) -> Replay:
    """`replay` as it is for a folder; one that stages for an object store."""
    return Staged(replay, store) if isinstance(store, TieredStore) else replay


class Staged:
    """Merges and screens over the folder of a tiered store.

    Raises beside what the worker answers: `StoreError` where the object store fails, and `NotFound` or
    `HashMismatch` where it lacks an input.
    """

    def __init__(self, replay: Replay, store: TieredStore) -> None:
        self._replay = replay
        self._store = store

    def merge(self, job: MergeJob, /) -> MergeResult:
        with self._store.holding(merge_blobs(job, self._store)):
            result = self._replay.merge(job.model_copy(update={"durable": False}))
            self._store.sync(self._written(result))
        return result

    def screen(
        self,
        delta: str,
        layout: str,
        codec: Codec = PLAIN,
        fragment: int = 0,
        largest_norm: float | None = None,
        sketch: SketchAt | None = None,
        /,
    ) -> None:
        with self._store.holding([layout, *artifact_blobs(self._store, delta)]):
            self._replay.screen(delta, layout, codec, fragment, largest_norm, sketch)

    def overlap(self, job: OverlapJob, /) -> Overlapped:
        return self._replay.overlap(job)

    def _written(self, result: MergeResult) -> Iterator[str]:
        yield result.state
        for artifact in filter(None, (result.base, result.outer)):
            yield from artifact_blobs(self._store, artifact)
