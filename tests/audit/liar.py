"""A core whose merges are real, and that lies by one bit: the least that can be wrong of a model.

It lies as consistently as it can: shard, manifest and state are hashed anew, the ledger names that state and
the core signs it, and the next round begins with it.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Final, Literal

from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.layout import Fragment, Layout, Tensor
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob, MergeResult
from tapestry.rounds import machine
from tapestry.storage.blobs import BlobStore
from tests.audit.stage import Node, Scene

Part = Literal["base", "outer"]
TENSORS: Final = (
    Tensor(name="a", shape=(40, 6)),
    Tensor(name="b", shape=(7,)),
    Tensor(name="c", shape=()),
    Tensor(name="d", shape=(3, 5, 4)),
    Tensor(name="e", shape=(1100,)),
)
"""More than one shard."""


class LyingScene(Scene):
    """Weights and updates are random; `merge` computes, and lies where it is told to."""

    tensors = TENSORS

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root)
        self.random = random.Random(seed)
        self.engine = Engine(self.core.store, threads=1)
        self.lied_about: list[Part] = []

    def round(self, *nodes: Node, lie: bool = False) -> None:
        """Each hands in, and the merge is recorded."""
        for node in nodes:
            self.send(node)
        self.merge(lie=lie)

    def merge(self, run: str = "run", *, lie: bool = False) -> None:
        state = self.state(run)
        at = state.current
        assert at is not None and at.phase == "merging", at
        job = MergeJob.of(state.plan, state=at.state, contributions=at.merged, durable=False)
        done = self.engine.merge(job)
        if lie:
            done = self.lied(done)
        self.now += 300
        given = {"state": done.state, "base": done.base, "outer": done.outer}
        self.put(machine.MergeDone(round=at.round, fragment=at.fragment, **given), run)

    def lied(self, honest: MergeResult) -> MergeResult:
        """The same with one value of its base or momentum moved to the next one that fp32 has."""
        state = State.from_bytes(self.core.store.read(honest.state))
        part: Part = self.random.choice(("base", "outer"))
        self.lied_about.append(part)
        digest = getattr(state, part)
        changed = one_ulp_off(self.core.store, self.layout, digest, self.random)
        told = state.model_copy(update={part: changed})
        sha = self.core.store.put(told.to_bytes(), durable=False)
        return honest.model_copy(update={"state": sha, "base": told.base, "outer": told.outer})

    def _blobs(self, value: float, of: Fragment | None = None) -> tuple[Blob, ...]:
        data = [
            shard.header
            + struct.pack(f"<{shard.elements}f", *(self.random.gauss(0, 0.1) for _ in range(shard.elements)))
            for shard in (of or self.layout).shards
        ]
        return tuple(Blob(sha256=self.core.store.put(each, durable=False), bytes=len(each)) for each in data)


def one_ulp_off(store: BlobStore, layout: Layout, digest: str, chance: random.Random) -> str:
    """An artifact as another, in which one value is the next above or below; its digest."""
    artifact = Artifact.from_bytes(store.read(digest))
    tensor = chance.randrange(len(layout.tensors))
    pieces = [
        (shard, piece)
        for shard in layout.shards
        for piece in shard.pieces
        if piece.tensor.name == layout.tensors[tensor].name
    ]
    shard, piece = chance.choice(pieces)
    element = chance.randrange(piece.values.start, piece.values.stop)
    data = bytearray(store.read(artifact.shards[shard.index].sha256))
    at = len(shard.header) + 4 * element
    (bits,) = struct.unpack_from("<I", data, at)
    up = not bits & 0x7FFFFFFF or chance.random() < 0.5  # zero has no neighbour below it in these bits
    struct.pack_into("<I", data, at, bits + 1 if up else bits - 1)
    blobs = list(artifact.shards)
    blobs[shard.index] = Blob(sha256=store.put(bytes(data), durable=False), bytes=len(data))
    return store.put(artifact.model_copy(update={"shards": tuple(blobs)}).to_bytes(), durable=False)
