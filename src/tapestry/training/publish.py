"""How a round leaves the trainer: delta, inner state and result become durable at once, by one rename."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

from tapestry.errors import ArtifactError, Diverged
from tapestry.host import failpoints, files
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.canonical import sha256
from tapestry.protocol.messages import Environment
from tapestry.training import checkpoint
from tapestry.training.blobs import BlobSource
from tapestry.training.home import DELTA, INNER, RESULT, TrainerHome
from tapestry.training.inner import Round
from tapestry.training.island import Island
from tapestry.training.loaded import Loaded
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
    delta = None
    with files.full_disk(unfinished):
        if job.train:
            checkpoint.save(unfinished / INNER, current.header(), current.moments(), island)
            delta = _write_delta(source, current, loaded, unfinished, island)
        if island.lead:
            result = _result(current, delta, manifest, environment)
            (unfinished / RESULT).write_bytes(result.to_bytes())
    if island.lead:
        if final.exists():
            home.set_aside(final)
        files.publish_dir(unfinished, final)
        failpoints.reach("trainer.result.published")
        home.set_aside(home.partial(job.run, job.round))
    island.barrier()


def _write_delta(
    source: BlobSource, current: Round, loaded: Loaded, folder: Path, island: Island
) -> Artifact:
    written: dict[int, Blob] = {}
    try:
        for shard, data in loaded.deltas(source, current.base):
            blob = Blob(sha256=sha256(memoryview(data)), bytes=len(data))
            with (folder / blob.sha256).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # where it was written: another host's rename comes later
            written[shard.index] = blob
    except ArtifactError as e:
        raise Diverged(
            f"round {current.job.round}: {e.message}", hint="lower the plan's inner.learning_rate"
        ) from e
    told = island.gather(json.dumps({i: blob.model_dump() for i, blob in written.items()}).encode())
    every = {int(i): Blob.model_validate(blob) for rank in told for i, blob in json.loads(rank).items()}
    shards = tuple(every[shard.index] for shard in loaded.layout.shards)
    delta = Artifact(kind="delta", layout=current.plan.layout, shards=shards)
    if island.lead:
        (folder / DELTA).write_bytes(delta.to_bytes())
        failpoints.reach("trainer.delta.written")
    return delta


def _result(current: Round, delta: Artifact | None, manifest: str, environment: Environment) -> TrainResult:
    job, inner = current.job, current.plan.inner
    last = current.losses[-max(1, inner.steps // 10) :]
    return TrainResult(
        run=job.run,
        plan=job.plan.digest,
        round=job.round,
        merges=job.merges,
        state=job.state,
        delta=delta.digest if delta else None,
        tokens=current.step * inner.accumulation * current.task.batch_tokens,
        steps=current.step,
        data_manifest=manifest,
        loss=math.fsum(last) / len(last) if last else None,
        score=current.score if job.evaluate else None,
        environment=environment,
        train_s=current.train_s,
        evaluate_s=current.evaluate_s,
    )
