"""Merges to test with: layouts, values and blobs. Also run as a program in child processes:

    python -m tests.replay.cases BLOB_ROOT JOB_FILE THREADS

merges in this process and prints the digest of the state and the CPU capability torch runs at.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from tapestry.codec.shards import ShardCodec
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Merge
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import UNIT
from tapestry.storage.blobs import BlobStore
from tapestry.tensors import shards
from tapestry.tensors.shards import pack

Values = dict[str, np.ndarray]
NESTEROV = Merge()
FEDAVG = Merge(outer="fedavg", outer_rate=1.0, outer_momentum=0.0)
SHAPES = {
    "a.scalar": (),
    "b.row": (1, 700),
    "c.split": (900, 7),
    "d.vector": (3001,),
    "e.deep": (5, 3, 2, 4),
    "f.scalar": (),
}
ODD = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, -1.1754944e-38, 3e-39, 1e30, -1e30, 1.0, -1.0, 16777217.0],
    dtype=np.float32,
)
"""Values where implementations differ: both zeros, denormals, the denormal edge, large."""


def layout_of(shapes: dict[str, tuple[int, ...]] = SHAPES, shard_bytes: int = 4096) -> Layout:
    tensors = tuple(Tensor(name=name, shape=shapes[name]) for name in sorted(shapes))
    return Layout(shard_bytes=shard_bytes, tensors=tensors)


def random_values(layout: Layout, seed: int, scale: float = 1.0, odd: float = 0.25) -> Values:
    """Normal values over many orders of magnitude, a part `odd` of them from `ODD`."""
    rng = np.random.default_rng(seed)
    values: Values = {}
    for tensor in layout.tensors:
        normal = rng.standard_normal(tensor.shape) * scale * 10.0 ** rng.integers(-6, 3, tensor.shape)
        strange = rng.choice(ODD, tensor.shape)
        chosen = np.where(rng.random(tensor.shape) < odd, strange, normal)
        values[tensor.name] = np.ascontiguousarray(chosen, dtype=np.float32).reshape(tensor.shape)
    return values


def put_artifact(store: BlobStore, layout: Layout, kind: ArtifactKind, values: Values) -> str:
    tensors = {name: torch.tensor(array) for name, array in values.items()}
    blobs = []
    for shard in layout.shards:
        data = pack(shard, tensors)
        blobs.append(Blob(sha256=store.put(data, durable=False), bytes=len(data)))
    artifact = Artifact(kind=kind, layout=layout.digest, shards=tuple(blobs))
    return store.put(artifact.to_bytes(), durable=False)


def put_encoded(store: BlobStore, layout: Layout, codec: Codec, values: Values) -> str:
    """A delta as a codec writes it; of values that can be encoded."""
    tensors = {name: torch.tensor(array) for name, array in values.items()}
    blobs = []
    for shard in layout.shards:
        data = ShardCodec(codec).encode_(shard, shards.values(shard, pack(shard, tensors)))
        blobs.append(Blob(sha256=store.put(data, durable=False), bytes=len(data)))
    artifact = Artifact(kind="delta", layout=layout.digest, shards=tuple(blobs))
    artifact.check_against(layout, kind="delta", codec=codec)
    return store.put(artifact.to_bytes(), durable=False)


def put_state(
    store: BlobStore, layout: Layout, base: Values, momentum: Values | None = None, merges: int = 0
) -> str:
    model = Model(layout=layout.digest, files=())
    store.put(layout.to_bytes(), durable=False)
    state = State(
        run="run",
        model=store.put(model.to_bytes(), durable=False),
        merges=merges,
        base=put_artifact(store, layout, "base", base),
        outer=None if momentum is None else put_artifact(store, layout, "outer", momentum),
    )
    return store.put(state.to_bytes(), durable=False)


def split_weights(count: int, seed: int = 0) -> list[int]:
    """Random weights that add up to one; one of them 0 from three on."""
    cuts = sorted(np.random.default_rng(seed).integers(0, UNIT + 1, count - 1).tolist())
    weights = [b - a for a, b in zip([0, *cuts], [*cuts, UNIT], strict=True)]
    if count >= 3:
        weights[0], weights[1] = 0, weights[0] + weights[1]
    return weights


def job_of(
    store: BlobStore,
    layout: Layout,
    state: str,
    deltas: list[str],
    *,
    weights: list[int] | None = None,
    merge: Merge = NESTEROV,
    codec: Codec = PLAIN,
    durable: bool = False,
) -> MergeJob:
    before = State.from_bytes(store.read(state))
    return MergeJob(
        run="run",
        model=before.model,
        layout=layout.digest,
        state=state,
        merge=merge,
        codec=codec,
        contributions=tuple(
            Merged(node=f"node{i:02}", member=f"member{i // 2:02}", contribution="0" * 64, delta=d, weight=w)
            for i, (d, w) in enumerate(
                zip(deltas, weights or split_weights(len(deltas), seed=1), strict=True)
            )
        ),
        durable=durable,
    )


def make_case(
    store: BlobStore,
    layout: Layout | None = None,
    *,
    count: int = 3,
    seed: int = 0,
    with_momentum: bool = True,
    merge: Merge = NESTEROV,
    durable: bool = False,
) -> MergeJob:
    """A whole merge's inputs in `store`."""
    layout = layout or layout_of()
    momentum = random_values(layout, seed + 1, 0.1) if with_momentum else None
    state = put_state(store, layout, random_values(layout, seed), momentum)
    deltas = [
        put_artifact(store, layout, "delta", random_values(layout, seed + 2 + i, 0.01)) for i in range(count)
    ]
    return job_of(
        store, layout, state, deltas, weights=split_weights(count, seed), merge=merge, durable=durable
    )


def all_blobs(store: BlobStore) -> dict[str, bytes]:
    return {blob.sha256: store.read(blob.sha256) for blob in store.iterate()}


def main(root: str, job_file: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    job = MergeJob.from_bytes(Path(job_file).read_bytes())
    result = Engine(BlobStore.open(root), threads=int(threads)).merge(job)
    print(result.state, torch.backends.cpu.get_cpu_capability())


if __name__ == "__main__":
    main(*sys.argv[1:])
