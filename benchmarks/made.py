"""Made-up models for benchmarks: layouts, artifacts of random normal numbers, and merges of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.layout import DEFAULT_SHARD_BYTES, Layout, Tensor
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Merge
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.rounds.weights import UNIT
from tapestry.storage.blobs import BlobStore

RUN = "bench"
COLUMNS = 4096
ROWS = 1024
ROW_BYTES = 4 * COLUMNS


def layout(data_bytes: int, shard_bytes: int = DEFAULT_SHARD_BYTES) -> Layout:
    """Matrices of 16 MiB, the last one with fewer rows; at least `data_bytes`."""
    rows = -(-data_bytes // ROW_BYTES)
    cuts = [min(ROWS, rows - start) for start in range(0, rows, ROWS)]
    return Layout(
        shard_bytes=shard_bytes,
        tensors=tuple(Tensor(name=f"layer{i:04}", shape=(n, COLUMNS)) for i, n in enumerate(cuts)),
    )


def shard_bytes(of: Layout, seed: int) -> Iterator[bytearray]:
    """Shard files of an artifact. No two shards of one or of different seeds are alike: each is the seed's
    noise times a factor of its own."""
    largest = max(shard.elements for shard in of.shards)
    noise = np.random.default_rng(seed).standard_normal(largest, dtype=np.float32)
    for shard in of.shards:
        blob = bytearray(shard.total_bytes)
        blob[: len(shard.header)] = shard.header
        values = np.frombuffer(blob, np.float32, offset=len(shard.header))
        np.multiply(noise[: shard.elements], np.float32(1e-3 * (1 + shard.index / 4096)), out=values)
        yield blob


def put_artifact(
    store: BlobStore,
    of: Layout,
    kind: ArtifactKind,
    seed: int,
    stopped: threading.Event | None = None,
) -> str:
    """Write an artifact, not synced; its digest. Raises `RuntimeError` once `stopped` is set."""
    blobs = []
    for data in shard_bytes(of, seed):
        if stopped is not None and stopped.is_set():
            raise RuntimeError("stopped")
        blobs.append(Blob(sha256=store.put(data, durable=False), bytes=len(data)))
    return store.put(Artifact(kind=kind, layout=of.digest, shards=tuple(blobs)).to_bytes(), durable=False)


def model(of: Layout) -> Model:
    """Without files."""
    return Model(layout=of.digest, files=())


def put_state(store: BlobStore, of: Layout, *, momentum: bool) -> str:
    """A state and all that belongs to it. Without momentum it is the initial state of a run."""
    store.put(of.to_bytes(), durable=False)
    state = State(
        run=RUN,
        model=store.put(model(of).to_bytes(), durable=False),
        merges=int(momentum),
        base=put_artifact(store, of, "base", 100),
        outer=put_artifact(store, of, "outer", 101) if momentum else None,
    )
    return store.put(state.to_bytes(), durable=False)


def job(store: BlobStore, of: Layout, state: str, deltas: Sequence[str], *, durable: bool) -> MergeJob:
    """The merge of these deltas, each of a member of its own, with equal weights."""
    count = len(deltas)
    weights = [UNIT // count] * (count - 1)
    weights.append(UNIT - sum(weights))
    merged = tuple(
        Merged(node=f"node{i:03}", member=f"member{i:03}", contribution="0" * 64, delta=delta, weight=w)
        for i, (delta, w) in enumerate(zip(deltas, weights, strict=True))
    )
    return MergeJob(
        run=RUN,
        model=State.from_bytes(store.read(state)).model,
        layout=of.digest,
        state=state,
        merge=Merge(),
        contributions=merged,
        durable=durable,
    )


def forget(store: BlobStore, result: MergeResult) -> None:
    """Remove what a merge wrote, so that the next one writes it again."""
    for sha in (result.base, result.outer):
        if sha is not None and store.has(sha):
            for blob in Artifact.from_bytes(store.read(sha)).shards:
                store.path(blob.sha256).unlink(missing_ok=True)
            store.delete(sha)
    store.delete(result.state)
