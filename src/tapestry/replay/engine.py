"""Merging and screening, shard by shard from the blob folder; the arithmetic is in `merge/`.

Memory is four shard buffers a thread whatever the size of the model and the number of contributions,
plus 32 bytes a shard for each manifest. Merging the same inputs again writes the same blobs, so a
merge that was cut off anywhere is simply repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import sqrt
from pathlib import Path
from typing import TypeVar

import torch

from tapestry.errors import Diverged, OverNorm
from tapestry.host import failpoints
from tapestry.merge import kernel
from tapestry.protocol import plan
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, State
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import Layout, Shard
from tapestry.replay.buffers import Desk, room_for
from tapestry.replay.combine import Combiner
from tapestry.replay.deltas import Deltas
from tapestry.replay.inputs import Inputs, Source, naming, read_inputs, read_message, read_source
from tapestry.replay.job import MergeJob, MergeResult, OverlapJob, Overlapped, SketchAt
from tapestry.replay.sketches import Drawing, Sketches
from tapestry.storage.blobs import BlobStore
from tapestry.tensors.flat import is_finite

R = TypeVar("R")

SYNCS = 2
"""Shards being made durable while others are computed; waiting for a disk takes no processor."""
SMALL = 2.0**-100
"""Times any fp32 value: no sum of as many as a shard has is too large."""


class Engine:
    """Merges within one blob folder.

    Args:
        store: where inputs lie and results go.
        threads: shards worked on at once. Call `torch.set_num_threads(1)` beside it, as the worker does:
            two levels of threads only get in each other's way.
        sketches: folder of the sketches of deltas; `sketches` beside the blobs if None.
    """

    def __init__(self, store: BlobStore, *, threads: int = 2, sketches: Path | None = None) -> None:
        self._store = store
        self._sketches = Sketches(sketches or store.root.parent / "sketches")
        self._threads = threads
        self._desks: list[Desk] = []

    def merge(self, job: MergeJob) -> MergeResult:
        """The state after `job`, whose blobs are in the store when this returns.

        Raises:
            NotFound: an input is not in the folder.
            HashMismatch: an input was damaged and has been removed.
            ArtifactError: an input has not the form its layout fixes.
            Diverged: the result is not finite.
            DiskFull: no space; what is there stays valid.
        """
        started = time.monotonic()
        inputs = read_inputs(job, self._store)
        written = self._merge_shards(job, inputs)
        base = self._put_artifact("base", inputs, inputs.base, [shas[0] for shas in written])
        momentum = None
        if job.merge.keeps_momentum:
            momentum = self._put_artifact("outer", inputs, inputs.momentum, [shas[1] for shas in written])
        if job.durable:
            self._store.sync([base, momentum] if momentum else [base])
        state = State(run=job.run, model=job.model, merges=inputs.state.merges + 1, base=base, outer=momentum)
        digest = self._store.put(state.to_bytes(), durable=job.durable)
        failpoints.reach("replay.state.written")
        return MergeResult(
            state=digest,
            base=base,
            outer=momentum,
            seconds=time.monotonic() - started,
            input_bytes=inputs.total_bytes,
        )

    def screen(
        self,
        delta: str,
        layout: str,
        codec: Codec = PLAIN,
        fragment: int = 0,
        largest_norm: float | None = None,
        sketch: SketchAt | None = None,
    ) -> None:
        """Raise `ArtifactError` with the reason unless a delta has the form of this fragment of its
        layout and is finite, and `OverNorm` where its norm is larger than that. A delta that passes has its
        sketch kept, where one is asked for."""
        shape = read_message(self._store, layout, Layout).fragment(fragment)
        source = read_source(self._store, delta, shape, "delta", "delta", codec)
        deltas = Deltas(self._store, codec)
        measured = largest_norm is not None

        def look(drawing: Drawing | None) -> list[float]:
            return self._each_shard(
                shape.shards,
                lambda desk, shard: deltas.screen(desk, shard, source, measured=measured, drawing=drawing),
            )

        drawing = None if sketch is None else Drawing(sketch.seed)
        squares = look(drawing)
        if largest_norm is not None and (norm := sqrt(sum(squares))) > largest_norm:
            raise OverNorm(
                f"{source.name}: its norm is {norm:.6g}, the plan allows {largest_norm:.6g}",
                hint="look at the learning rate and the text; merge.largest_norm is the plan's",
            )
        if sketch is not None and drawing is not None:
            if not drawing.finite:  # values near the largest float, which nobody sends in earnest
                look(drawing := Drawing(sketch.seed, SMALL))
            self._sketches.put(sketch, delta, drawing)

    def overlap(self, job: OverlapJob) -> Overlapped:
        """How far a delta that was screened overlaps with others. Raises `StoreError` where its sketch is
        lost; it is drawn by screening it again."""
        return self._sketches.overlaps(job)

    def _merge_shards(self, job: MergeJob, inputs: Inputs) -> list[tuple[str, ...]]:
        """Digests of what was written for each shard; on disk for good if the job is durable."""
        outer = _outer(job.merge, inputs)
        units = [merged.weight for merged in job.contributions]
        fragment, deltas = inputs.fragment, Deltas(self._store, job.codec)
        combiner = Combiner.prepare(
            job.merge, job.codec, fragment.shards, units, inputs.deltas, deltas, self._each_shard
        )
        with ThreadPoolExecutor(SYNCS, "sync") as pool:
            syncs: list[Future[None]] = []

            def work(desk: Desk, shard: Shard) -> tuple[str, ...]:
                shas = self._merge_shard(desk, shard, inputs, combiner, outer)
                if job.durable:
                    syncs.append(pool.submit(self._store.sync, shas))
                return shas

            written = self._each_shard(fragment.shards, work)
            for sync in syncs:
                sync.result()
        return written

    def _merge_shard(
        self, desk: Desk, shard: Shard, inputs: Inputs, combiner: Combiner, outer: kernel.Outer
    ) -> tuple[str, ...]:
        """Digests of the new base shard and, where one is kept, of the new momentum shard."""
        gradient = combiner.gradient(desk, shard)
        with naming(inputs.base.name):
            base = desk.base.read(self._store, inputs.base.sha(shard.index), shard)
        momentum = None
        if outer.keeps_momentum:
            momentum = self._momentum(desk, shard, inputs.momentum)
        kernel.step(base, momentum, gradient, outer, desk.work)
        bad = None if is_finite(base) else "base"
        if momentum is not None and not outer.is_refresh and not is_finite(momentum):
            bad = bad or "momentum"  # which only the next refresh would show
        if bad is not None:
            deltas = combiner.deltas
            largest = max(inputs.deltas, key=lambda source: deltas.peak(desk, shard, source))
            raise Diverged(
                f"the merged {bad} is not finite in shard {shard.index}; "
                f"the largest values are in the {largest.name}",
                hint="withdraw a node that sends huge values, or revise merge.outer_rate",
            )
        return self._put_shard(desk, shard, with_momentum=momentum is not None)

    def _put_shard(self, desk: Desk, shard: Shard, *, with_momentum: bool) -> tuple[str, ...]:
        shas = [self._store.put(desk.base.blob(shard), durable=False)]
        if with_momentum:
            shas.append(self._store.put(desk.momentum.blob(shard), durable=False))
        failpoints.reach("replay.shard.written")
        return tuple(shas)

    def _momentum(self, desk: Desk, shard: Shard, source: Source | None) -> torch.Tensor:
        if source is None:
            return desk.momentum.zero(shard)
        with naming(source.name):
            return desk.momentum.read(self._store, source.sha(shard.index), shard)

    def _put_artifact(
        self, kind: ArtifactKind, inputs: Inputs, before: Source | None, written: list[str]
    ) -> str:
        """With the fragment's new shards among those of before; momentum that never was is zero."""
        new = {shard.index: sha for shard, sha in zip(inputs.fragment.shards, written, strict=True)}
        others = [shard for shard in inputs.layout.shards if shard.index not in new]
        if before is None:
            zeros = self._each_shard(others, lambda desk, shard: self._put_zeros(desk, shard))
            new |= {shard.index: sha for shard, sha in zip(others, zeros, strict=True)}
        else:
            new |= {shard.index: before.sha(shard.index) for shard in others}
        shards = tuple(
            Blob(sha256=new[shard.index], bytes=shard.total_bytes) for shard in inputs.layout.shards
        )
        artifact = Artifact(kind=kind, layout=inputs.fragment.digest, shards=shards)
        return self._store.put(artifact.to_bytes(), durable=False)

    def _put_zeros(self, desk: Desk, shard: Shard) -> str:
        desk.momentum.zero(shard)
        return self._store.put(desk.momentum.blob(shard), durable=False)

    def _each_shard(self, every: Sequence[Shard], work: Callable[[Desk, Shard], R]) -> list[R]:
        """`work` on every shard, several at a time; results in order. The first error stops all."""
        if not every:
            return []
        threads = min(self._threads, len(every))
        self._make_room(every, threads)
        shards = iter(every)
        lock, stop = threading.Lock(), threading.Event()
        results: dict[int, R] = {}

        def run(desk: Desk) -> None:
            torch.set_flush_denormal(False)  # of this thread; some libraries switch it on when loaded
            try:
                while not stop.is_set():
                    with lock:
                        shard = next(shards, None)
                    if shard is None:
                        return
                    results[shard.index] = work(desk, shard)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(threads, "shard") as pool:
            for done in [pool.submit(run, desk) for desk in self._desks[:threads]]:
                done.result()
        return [results[shard.index] for shard in every]

    def _make_room(self, every: Sequence[Shard], threads: int) -> None:
        header_bytes, data_bytes = room_for(every)
        if self._desks and not all(
            have >= need for have, need in zip(self._desks[0].size, (header_bytes, data_bytes), strict=True)
        ):
            self._desks.clear()
        while len(self._desks) < threads:
            self._desks.append(Desk(header_bytes, data_bytes))


def _outer(merge: plan.Merge, inputs: Inputs) -> kernel.Outer:
    if not merge.keeps_momentum:
        return kernel.Outer.sgd(rate=merge.outer_rate)
    if merge.outer == "delayed":
        before = inputs.state.merges // inputs.layout.fragment_count  # of this fragment
        return kernel.Outer.delayed(
            rate=merge.outer_rate,
            momentum=merge.outer_momentum,
            refresh=merge.refresh,
            is_refresh=(before + 1) % merge.refresh == 0,
        )
    return kernel.Outer.nesterov(rate=merge.outer_rate, momentum=merge.outer_momentum)
