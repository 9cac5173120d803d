"""How a round leaves the trainer: delta, inner state and result become durable at once, by one rename."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

from tapestry.errors import ArtifactError, Diverged
from tapestry.host import failpoints, files
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.canonical import sha256
from tapestry.protocol.layout import Fragment, Layout
from tapestry.protocol.messages import Environment
from tapestry.training import checkpoint
from tapestry.training.blobs import BlobSource
from tapestry.training.home import DELTA, INNER, MANIFESTS, RESULT, TrainerHome
from tapestry.training.inner import Round, named_parameters
from tapestry.training.island import Island
from tapestry.training.loaded import Loaded
from tapestry.training.own_rows import OwnRows
from tapestry.training.residual import BEFORE, MANIFEST, RESIDUAL, Encoder
from tapestry.training.spool import TrainResult


def publish(
    home: TrainerHome,
    source: BlobSource,
    current: Round,
    loaded: Loaded,
    *,
    island: Island,
    manifest: str,
    environment: Environment,
) -> None:
    """Make the finished folder of a round. All ranks together; each writes its shards of the delta.

    Raises:
        Diverged: the delta is not finite.
        DiskFull: no space; nothing of the round is there.
    """
    job = current.job
    unfinished, final = home.unfinished(job.run, job.round), home.result(job.run, job.round)
    if island.lead:
        shutil.rmtree(unfinished, ignore_errors=True)
        with files.full_disk(unfinished):
            unfinished.mkdir()
    island.barrier()
    delta, began = None, time.monotonic()
    with files.full_disk(unfinished):
        if job.train:
            kept, own = current.moments(), job.plan.streaming.goes_on
            if own:
                kept |= named_parameters(loaded)
            checkpoint.save(unfinished / INNER, current.header(parameters=own), kept, island)
            if island.lead and (earlier := sorted({*current.manifests[1:], *home.earlier(job)})):
                files.write_new(unfinished / INNER / MANIFESTS, canonical.encode(earlier))
            began = time.monotonic()
            delta = _write_delta(home, source, current, loaded, island)
        if island.lead:
            encode_s = time.monotonic() - began
            result = _result(current, delta, manifest, environment, encode_s)
            (unfinished / RESULT).write_bytes(result.to_bytes())
    if island.lead:
        if final.exists():
            home.set_aside(final)
        files.publish_dir(unfinished, final)
        failpoints.reach("trainer.result.published")
        home.set_aside(home.partial(job.run, job.round))
    island.barrier()


def _write_delta(
    home: TrainerHome, source: BlobSource, current: Round, loaded: Loaded, island: Island
) -> Artifact:
    """Each rank writes its shards, synced by itself: another host's rename comes later."""
    job = current.job
    folder = home.unfinished(job.run, job.round)
    fragment = loaded.layout.fragment_at(job.merges)
    encoder = Encoder(home, source, job, loaded.layout, folder, island)
    own = OwnRows.of(current.plan, current.task.corpus)
    sent: dict[int, Blob] = {}
    left: dict[int, Blob] = {}
    undone: dict[int, Blob] = {}
    try:
        for shard, data in loaded.deltas(source, current.base, fragment.shards, own=own):
            blob, rest, before = encoder.encode(shard, data)
            sent[shard.index] = _written(folder, blob)
            if rest is not None:
                left[shard.index] = _written(folder / INNER / RESIDUAL, rest)
            if before is not None:
                undone[shard.index] = _written(folder / INNER / RESIDUAL, before)
        for shard in encoder.others():
            left[shard.index] = _written(folder / INNER / RESIDUAL, encoder.carry(shard))
    except ArtifactError as e:
        raise Diverged(f"round {job.round}: {e.message}", hint="lower the plan's inner.learning_rate") from e
    delta = _manifest(sent, fragment, island)
    if encoder.keeps_rest:
        kept = _manifest(left, loaded.layout, island)
        if island.lead:
            files.write_new(folder / INNER / RESIDUAL / MANIFEST, kept.to_bytes())
    if encoder.keeps_before:
        before_it = _manifest(undone, fragment, island)
        if island.lead:
            files.write_new(folder / INNER / RESIDUAL / BEFORE, before_it.to_bytes())
    if island.lead:
        files.write_new(folder / DELTA, delta.to_bytes())
        failpoints.reach("trainer.delta.written")
    return delta


def _written(folder: Path, data: bytes | bytearray) -> Blob:
    blob = Blob(sha256=sha256(memoryview(data)), bytes=len(data))
    files.write_new(folder / blob.sha256, data)
    return blob


def _manifest(mine: dict[int, Blob], of: Layout | Fragment, island: Island) -> Artifact:
    """Of the shards all ranks have written."""
    told = island.gather(json.dumps({i: blob.model_dump() for i, blob in mine.items()}).encode())
    every = {int(i): Blob.model_validate(blob) for rank in told for i, blob in json.loads(rank).items()}
    shards = tuple(every[shard.index] for shard in of.shards)
    return Artifact(kind="delta", layout=of.digest, shards=shards)


def _result(
    current: Round, delta: Artifact | None, manifest: str, environment: Environment, encode_s: float
) -> TrainResult:
    job, inner = current.job, current.plan.inner
    last = current.losses[-max(1, job.round_steps // 10) :]
    return TrainResult(
        run=job.run,
        plan=job.plan.digest,
        round=job.round,
        merges=job.merges,
        state=job.state,
        fragment=job.merges % job.plan.streaming.fragments,
        delta=delta.digest if delta else None,
        tokens=current.step * inner.accumulation * current.task.batch_tokens,
        steps=current.step,
        data_manifest=manifest,
        loss=math.fsum(last) / len(last) if last else None,
        score=current.score if job.evaluate else None,
        environment=environment,
        train_s=current.train_s,
        evaluate_s=current.evaluate_s,
        encode_s=encode_s,
        waited_s=current.waited_s,
    )
