"""Merges repeated away from the blobs they are of.

The inputs of a merge are linked into a scratch folder that holds nothing else, so what lies there afterwards
was computed there. Of each run only the newest state stays in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tapestry.errors import NotFound
from tapestry.protocol.artifact import State
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Plan
from tapestry.replay.client import Replayer
from tapestry.replay.inputs import artifact_blobs, merge_blobs, read_message
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.storage.blobs import BlobStore


class Repeater:
    """Repeats merges, in the order of their runs; a context.

    Args:
        store: where the blobs of states and contributions are; nothing is written to it.
        parent: folder of the scratch folder; on the same file system nothing is copied.
        threads: shards worked on at once.
    """

    def __init__(self, store: BlobStore, *, parent: Path, threads: int = 2) -> None:
        self._store = store
        self._parent = parent
        self._threads = threads
        self._kept: dict[str, set[str]] = {}
        """By run: blobs of the state that was computed last."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix=".recompute-", dir=self._parent)
        root = Path(self._folder.name) / "blobs"
        self._scratch = BlobStore.open(root)
        self._replayer = Replayer(root, threads=self._threads, log_path=root.with_name("replay.log"))
        return self

    def __exit__(self, *_: object) -> None:
        self._replayer.close()
        self._folder.cleanup()

    @property
    def store(self) -> BlobStore:
        """Where results lie until the next merge of their run; only of use within the context."""
        return self._scratch

    def merge(self, plan: Plan, *, before: str, contributions: tuple[Merged, ...]) -> MergeResult:
        """What these contributions make of a state.

        Args:
            plan: in force in that round.
            before: digest of the state, computed here a moment ago or in the store.
            contributions: with their weights, in merge order.

        Raises:
            NotFound: a blob is not in the store (any more).
            HashMismatch: one is damaged.
            ArtifactError, Diverged: as of `engine.Engine.merge`.
        """
        job = MergeJob.of(plan, state=before, contributions=contributions, durable=False)
        here = self._scratch if self._scratch.has(before) else self._store
        self._link(merge_blobs(job, self._store, here))
        done = self._replayer.merge(job)
        self._tidy(plan.run, done.state)
        return done

    def _link(self, digests: Iterable[str]) -> None:
        for digest in digests:
            if self._scratch.has(digest):
                continue
            try:
                path = self._store.fetch(digest)
            except NotFound as e:
                raise NotFound(f"blob {digest[:12]} is not kept any more") from e
            self._scratch.adopt(path, digest, durable=False)

    def _tidy(self, run: str, newest: str) -> None:
        """Leave the newest states alone: of a long run all would not fit on a disk."""
        state = read_message(self._scratch, newest, State)
        kept = {newest}
        for artifact in filter(None, (state.base, state.outer)):
            kept.update(artifact_blobs(self._scratch, artifact))
        self._kept[run] = kept
        every = set().union(*self._kept.values())
        self._scratch.delete_all([b.sha256 for b in self._scratch.iterate() if b.sha256 not in every])
