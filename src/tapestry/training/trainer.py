"""The resident trainer of a node: one job after the other, each ending in a finished folder of the spool.

It starts round r from the job's base and from the inner state (optimizer, position in the text) that the
last finished round left. Delta and inner state become durable together by the rename of one folder, so a
kill at any moment repeats work but never changes the outcome: on one CPU type, thread count and torch
release the same jobs give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from tapestry.errors import ArtifactError, Diverged, ModelError, PlanError, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.canonical import sha256
from tapestry.protocol.plan import Plan
from tapestry.training import checkpoint
from tapestry.training.blobs import BlobFolder
from tapestry.training.checkpoint import Checkpoint, InnerState
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.home import DELTA, INNER, RESULT, Pace, Status, TrainerHome, log
from tapestry.training.machine import environment
from tapestry.training.model import Loaded
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TextScore, TrainJob, TrainResult
from tapestry.training.task import Task, make_task

POLL_S = 0.01
MAX_LOSS = 1e6
MAX_JOB_BYTES = 1 << 20


class Stopped(BaseException):
    """SIGTERM came. Not an `Exception`, so that nothing on the way mistakes it for a failure."""


@dataclass
class Round:
    """A round on its way."""

    job: TrainJob
    optimizer: InnerOptimizer
    task: Task
    base: Artifact
    position: int
    losses: list[float] = field(default_factory=list)
    score: TextScore | None = None
    train_s: float = 0.0
    evaluate_s: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def plan(self) -> Plan:
        return self.job.plan


class Trainer:
    """Does the jobs of one node's home.

    Args:
        home: the node's home.
        settings: of the node.
        status: where it says what it does.
    """

    def __init__(self, home: TrainerHome, settings: TrainerSettings, status: Status) -> None:
        self.home = home
        self.settings = settings
        self.status = status
        self.blobs = BlobFolder(home.blobs)
        self.loaded: Loaded | None = None
        self.corpus: Corpus | None = None
        self._job_seen: tuple[int, int, int] | None = None
        self._stopping = False
        self._in_steps = False
        self._environment = environment(settings.threads, status.level)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: in the middle of a round a checkpoint is written first."""
        signal.signal(number, signal.SIG_IGN)
        self._stopping = True
        if not self._in_steps:
            raise Stopped

    def serve(self) -> None:
        """Do jobs until told to stop. Raises what the first job that cannot be done raises."""
        while True:
            job = self._next_job()
            if job is None:
                self.status.update(phase="waiting", step=None, steps=None)
                while (job := self._next_job()) is None:
                    time.sleep(POLL_S)
            self.do(job)

    def do(self, job: TrainJob) -> bool:
        """Do one job; False where a newer one took its place. Harmless for a job that is done."""
        if self.home.is_done(job):
            return True
        self.status.update(phase="loading", run=job.run, round=job.round)
        self.home.forget(job)
        loaded = self._load(job.plan)
        corpus = self._corpus(loaded)
        task = make_task(job.plan, corpus, self.settings.node)
        current = self._begin(job, loaded, task)
        if job.evaluate and current.score is None:
            self._evaluate(current, loaded)
        if job.train:
            if current.step == 0:
                seed = f"{job.plan.inner.seed}\0{self.settings.node}\0{job.round}".encode()
                torch.manual_seed(int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") >> 1)
            if not self._train(current, loaded):
                return False
        self._publish(current, loaded, corpus.digest)
        return True

    def _next_job(self) -> TrainJob | None:
        """The job file where it changed since the last look and is not done."""
        seen = self._job_identity()
        if seen is None or seen == self._job_seen:
            return None
        try:
            job = TrainJob.from_bytes(files.read_limited(self.home.job, MAX_JOB_BYTES))
        except FileNotFoundError:
            return None
        self._job_seen = seen
        return None if self.home.is_done(job) else job

    def _job_identity(self) -> tuple[int, int, int] | None:
        try:
            info = self.home.job.stat()
        except FileNotFoundError:
            return None
        return info.st_ino, info.st_mtime_ns, info.st_size

    def _superseded(self, job: TrainJob) -> bool:
        """Whether the job file now holds another job; one that only was written again does not count."""
        seen = self._job_identity()
        if seen is None or seen == self._job_seen:
            return False
        try:
            newest = TrainJob.from_bytes(files.read_limited(self.home.job, MAX_JOB_BYTES))
        except (FileNotFoundError, TapestryError):
            return True
        if newest == job:
            self._job_seen = seen
            return False
        return True

    def _load(self, plan: Plan) -> Loaded:
        if self.loaded is None or self.loaded.digest != plan.model:
            self.loaded = Loaded.read(self.blobs, plan.model)
            self.corpus = None
        if self.loaded.model.layout != plan.layout:
            raise PlanError(f"the plan of {plan.run} names another layout than its model")
        longest = self.loaded.config.get("max_position_embeddings")
        if isinstance(longest, int) and plan.inner.sequence_length > longest:
            raise ModelError(
                f"sequence_length {plan.inner.sequence_length} is more than the model's "
                f"max_position_embeddings {longest}"
            )
        return self.loaded

    def _corpus(self, loaded: Loaded) -> Corpus:
        if self.corpus is None:
            self.status.update(phase="reading")
            folder = self.settings.corpus_path(self.home.root)
            self.corpus = open_corpus(folder, loaded.tokenizer, self.home.cache)
            store_manifest(self.home.cache, self.corpus)
        return self.corpus

    def _begin(self, job: TrainJob, loaded: Loaded, task: Task) -> Round:
        """Parameters, optimizer and position as the last durable state has them."""
        base = loaded.load_base(self.blobs, job.base)
        optimizer = InnerOptimizer(loaded.parameters, job.plan.inner)
        inner = job.plan.inner
        sequences = inner.steps * inner.accumulation * inner.batch_sequences
        current = Round(job, optimizer, task, base, position=(job.round - 1) * sequences)
        if not job.train:
            return current
        partial = self._read([self.home.partial(job.run, job.round)], job)
        if partial is not None and self._fits(partial.header, job) and self._resume(current, partial, loaded):
            return current
        earlier = [number for number in self.home.rounds(job.run) if number < job.round]
        found = self._read([self.home.result(job.run, number) / INNER for number in earlier], job)
        if found is not None:
            optimizer.load(found.under("optimizer"))
            current.position = found.header.position
        return current

    def _read(self, paths: list[Path], job: TrainJob) -> Checkpoint | None:
        found, passed = checkpoint.load_first(paths, run=job.run, layout=job.plan.layout)
        for reason in passed:
            log("checkpoint passed over", reason=reason)
        return found

    @staticmethod
    def _fits(header: InnerState, job: TrainJob) -> bool:
        return (header.plan, header.round, header.state) == (job.plan.digest, job.round, job.state)

    @staticmethod
    def _resume(current: Round, partial: Checkpoint, loaded: Loaded) -> bool:
        """Go on inside a round."""
        parameters = partial.under("parameter")
        shapes = {name: value.shape for name, value in parameters.items()}
        if shapes != {name: parameter.shape for name, parameter in loaded.parameters.items()}:
            return False
        current.optimizer.load(partial.under("optimizer"))
        with torch.no_grad():
            for name, parameter in loaded.parameters.items():
                parameter.copy_(parameters[name])
        torch.set_rng_state(partial.tensors["rng"])
        current.position = partial.header.position
        current.losses = list(partial.header.losses)
        current.score = partial.header.score
        return True

    def _evaluate(self, current: Round, loaded: Loaded) -> None:
        self.status.update(phase="evaluating")
        started = time.monotonic()
        scored = current.task.evaluate(loaded.module)
        current.evaluate_s = time.monotonic() - started
        if not scored.finite or scored.bits_per_byte > MAX_LOSS:
            raise Diverged(
                f"the base of round {current.job.round} has no finite score",
                hint="the shared base is broken; lower the outer or inner learning rate",
            )
        current.score = TextScore(bits_per_byte=scored.bits_per_byte, bytes=scored.bytes)

    def _train(self, current: Round, loaded: Loaded) -> bool:
        """All steps of the round; False where a newer job came."""
        steps = current.plan.inner.steps
        self.status.update(phase="training", step=current.step, steps=steps)
        loaded.module.train()
        pace = Pace(self.home.progress, current.job.round, steps, current.task.batch_tokens)
        started = saved = time.monotonic()
        self._in_steps = True
        try:
            while current.step < steps:
                current.losses.append(train_step(current, loaded))
                failpoints.reach("trainer.step")
                pace.tell(current.losses, current.plan.inner.accumulation)
                if self._superseded(current.job):
                    log("a newer job came", round=current.job.round, step=current.step)
                    return False
                due = time.monotonic() - saved >= self.settings.checkpoint_s and current.step < steps
                if due or self._stopping:
                    self._save_partial(current, loaded)
                    saved = time.monotonic()
                if self._stopping:
                    raise Stopped
        finally:
            self._in_steps = False
            current.train_s = time.monotonic() - started
        return True

    def _save_partial(self, current: Round, loaded: Loaded) -> None:
        path = self.home.partial(current.job.run, current.job.round)
        with files.full_disk(path):
            path.parent.mkdir(exist_ok=True)
        tensors = self._inner_tensors(current)
        tensors |= {f"parameter.{name}": value for name, value in loaded.parameters.items()}
        tensors["rng"] = torch.get_rng_state()
        inside = {"losses": tuple(current.losses), "score": current.score}
        checkpoint.save(path, self._header(current).model_copy(update=inside), tensors)

    @staticmethod
    def _inner_tensors(current: Round) -> dict[str, Tensor]:
        return {f"optimizer.{name}": value for name, value in current.optimizer.state().items()}

    @staticmethod
    def _header(current: Round) -> InnerState:
        job = current.job
        return InnerState(
            run=job.run,
            plan=job.plan.digest,
            layout=job.plan.layout,
            round=job.round,
            state=job.state,
            step=current.step,
            position=current.position,
        )

    def _publish(self, current: Round, loaded: Loaded, manifest: str) -> None:
        """Delta, inner state and result become durable at once, by one rename."""
        job = current.job
        self.status.update(phase="publishing")
        unfinished, final = self.home.unfinished(job.run, job.round), self.home.result(job.run, job.round)
        shutil.rmtree(unfinished, ignore_errors=True)
        delta = None
        with files.full_disk(unfinished):
            unfinished.mkdir()
            if job.train:
                checkpoint.save(unfinished / INNER, self._header(current), self._inner_tensors(current))
                delta = self._write_delta(current, loaded, unfinished)
            result = self._result(current, delta, manifest)
            (unfinished / RESULT).write_bytes(result.to_bytes())
        if final.exists():
            self.home.set_aside(final)
        files.publish_dir(unfinished, final)
        failpoints.reach("trainer.result.published")
        self.home.set_aside(self.home.partial(job.run, job.round).parent)
        log(
            "round finished" if job.train else "base scored",
            run=job.run,
            round=job.round,
            steps=current.step,
            train_s=round(current.train_s, 3),
            evaluate_s=round(current.evaluate_s, 3),
        )

    def _write_delta(self, current: Round, loaded: Loaded, folder: Path) -> Artifact:
        blobs = []
        try:
            for data in loaded.deltas(self.blobs, current.base):
                blob = Blob(sha256=sha256(memoryview(data)), bytes=len(data))
                (folder / blob.sha256).write_bytes(data)
                blobs.append(blob)
        except ArtifactError as e:
            raise Diverged(
                f"round {current.job.round}: {e.message}", hint="lower the plan's inner.learning_rate"
            ) from e
        delta = Artifact(kind="delta", layout=current.plan.layout, shards=tuple(blobs))
        (folder / DELTA).write_bytes(delta.to_bytes())
        failpoints.reach("trainer.delta.written")
        return delta

    def _result(self, current: Round, delta: Artifact | None, manifest: str) -> TrainResult:
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
            environment=self._environment,
            train_s=current.train_s,
            evaluate_s=current.evaluate_s,
        )


def train_step(current: Round, loaded: Loaded) -> float:
    """One optimizer step; returns its mean loss. Raises `Diverged`."""
    inner = current.plan.inner
    total = 0.0
    for _ in range(inner.accumulation):
        loss = current.task.loss(loaded.module, current.task.batch(current.position)) / inner.accumulation
        torch.autograd.backward(loss)
        total += loss.item()
        current.position += current.task.batch_sequences
    if not 0 <= total <= MAX_LOSS:
        raise Diverged(
            f"the loss of round {current.job.round}, step {current.step + 1} is {total}",
            hint="lower the plan's inner.learning_rate, or raise inner.warmup_steps",
        )
    step = current.job.merges * inner.steps + current.step
    current.optimizer.step(learning_rate(inner, step, current.plan.rounds.total * inner.steps))
    return total


def store_manifest(cache: Path, corpus: Corpus) -> None:
    """Keep the data manifest at the node, under its hash."""
    path = cache / "manifests" / f"{corpus.digest}.json"
    if not path.exists():
        with files.full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, corpus.manifest)
