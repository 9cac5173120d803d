"""The inner loop of one round: where it stands, its steps, its checkpoints.

R: ranks. B: sequences of a batch of the node. Each rank takes ⌈B / R⌉ of them; the mean over the batch,
and so the gradient, is the same for any R.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tapestry.errors import ArtifactError, Diverged, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import Plan
from tapestry.training import checkpoint
from tapestry.training.blobs import BlobSource
from tapestry.training.checkpoint import Began, InnerState
from tapestry.training.home import INNER, TrainerHome, log
from tapestry.training.island import Island
from tapestry.training.loaded import Loaded
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TextScore, TrainJob
from tapestry.training.task import Task

MAX_LOSS = 1e6


@dataclass
class Round:
    """A round on its way."""

    job: TrainJob
    optimizer: InnerOptimizer
    task: Task
    base: Artifact
    position: int
    origin: float = 0.0
    """Steps of the run before this round, as a member at full pace counts them: all have one schedule."""
    stride: float = 1.0
    """Steps of such a member while this one takes a step."""
    losses: list[float] = field(default_factory=list)
    score: TextScore | None = None
    train_s: float = 0.0
    evaluate_s: float = 0.0
    waited_s: float = 0.0
    manifests: tuple[str, ...] = ()
    """Hashes of the data manifests of which it has something: the node's, then those that it goes on from."""
    began: Began | None = None
    """In the first round of a run that repeats another: whether it goes on from the inner state that was kept
    of that one, or from none."""

    def begins(self, job: TrainJob, base: Artifact) -> None:
        """The job of this round is known; steps may have been taken before."""
        inner = job.plan.inner
        self.job, self.base = job, base
        self.origin = inner.steps_before(job.merges)
        self.stride = inner.steps_at(job.merges) / job.round_steps

    @property
    def step(self) -> int:
        return len(self.losses)

    @property
    def plan(self) -> Plan:
        return self.job.plan

    @property
    def text(self) -> str:
        """Stands for all text of which there is something in it."""
        return canonical.sha256(canonical.encode(list(self.manifests)))

    def header(self, *, parameters: bool) -> InnerState:
        """`parameters`: whether they are saved too."""
        return InnerState(
            run=self.job.run,
            plan=self.plan.digest,
            layout=self.plan.layout,
            round=self.job.round,
            merges=self.job.merges,
            state=self.job.state,
            step=self.step,
            of_steps=self.job.round_steps,
            parameters=parameters,
            position=self.position,
            optimizer_steps=self.optimizer.steps,
            began=self.began,
        )

    def moments(self) -> dict[str, Tensor]:
        return _named("optimizer", self.optimizer.state())


class InnerLoop:
    """Begins, steps and saves rounds of one node's model. All ranks call each method together."""

    def __init__(self, home: TrainerHome, settings: TrainerSettings, island: Island) -> None:
        self.home = home
        self.settings = settings
        self.island = island

    def begin(
        self,
        job: TrainJob,
        loaded: Loaded,
        task: Task,
        source: BlobSource,
        base: Artifact,
        *,
        manifests: tuple[str, ...] = (),
    ) -> Round:
        """The round as the last durable state has it; the model's parameters are those of its place."""
        optimizer = InnerOptimizer(loaded.parameters, job.plan.inner, job.plan.codec.is_embedding)
        inner = job.plan.inner
        before = inner.steps_before(job.round - 1) * inner.accumulation * inner.batch_sequences
        current = Round(job, optimizer, task, base, position=before, manifests=manifests)
        current.begins(job, base)
        loaded.take(source, base)
        if job.train and not self._resume(current, loaded):
            self._go_on_from_earlier(current, loaded, source)
        return current

    def ahead(self, finished: Round) -> Round:
        """The round after one that is finished, before its job and its base are known."""
        return Round(
            finished.job,
            finished.optimizer,
            finished.task,
            finished.base,
            position=finished.position,
            origin=finished.plan.inner.steps_before(finished.job.merges + 1),
            stride=finished.stride,
            manifests=finished.manifests,
        )

    def step_ahead(
        self,
        current: Round,
        loaded: Loaded,
        *,
        stopping: Callable[[], bool],
        before_update: Callable[[], object] = lambda: None,
    ) -> bool:
        """Take the steps that the plan lets a node take before it has the base; False where told to stop.
        `before_update` as of `step`."""
        loaded.module.train()
        while current.step < current.plan.streaming.overlap_steps:
            failpoints.reach("trainer.step")
            if self.step(current, loaded, stopping(), before_update=before_update)[0]:
                return False
        return True

    def join(
        self, current: Round, merges: int, job: TrainJob, loaded: Loaded, source: BlobSource, base: Artifact
    ) -> None:
        """Take in what was merged since the node's own parameters had so many merges."""
        current.begins(job, base)
        for number in range(merges, job.merges):
            fragment = loaded.layout.fragment_at(number)
            loaded.take(source, base, fragment.shards, keep=job.plan.streaming.mixing)

    def step(
        self,
        current: Round,
        loaded: Loaded,
        *flags: bool,
        before_update: Callable[[], object] = lambda: None,
    ) -> list[bool]:
        """One optimizer step; which `flags` any rank has set. Raises `Diverged`.

        Args:
            current: of the round.
            loaded: the model.
            flags: of this rank.
            before_update: called before parameters and moments change.
        """
        self._seed(current)
        inner = current.plan.inner
        mine = 0.0
        for _ in range(inner.accumulation):
            for rows, weight in self._passes(current):
                loss = current.task.loss(loaded.module, rows)
                # FSDP takes the mean of the ranks' gradients: times R it is their sum.
                (loss * (weight * self.island.ranks / inner.accumulation)).backward()  # type: ignore[no-untyped-call]
                mine += loss.item() * weight / inner.accumulation
            current.position += current.task.batch_sequences
        total, *raised = self.island.sum(mine, *map(float, flags))
        if not 0 <= total <= MAX_LOSS:
            raise Diverged(
                f"the loss of round {current.job.round}, step {current.step + 1} is {total}",
                hint="lower the plan's inner.learning_rate, or raise inner.warmup_steps",
            )
        before_update()
        place = current.origin + current.step * current.stride
        current.optimizer.step(learning_rate(inner, place, current.plan.total_steps))
        current.losses.append(total)
        return [each > 0 for each in raised]

    def save(self, current: Round, loaded: Loaded) -> None:
        """A checkpoint inside the round; the one before goes when this one is whole."""
        job = current.job
        folder = self.home.partial(job.run, job.round) / str(current.step)
        unfinished = folder.with_name(f"{folder.name}.tmp")
        if self.island.lead:
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
        tensors = current.moments() | named_parameters(loaded)
        inside = {"losses": tuple(current.losses), "score": current.score, "text": current.text}
        try:
            checkpoint.save(
                unfinished, current.header(parameters=True).model_copy(update=inside), tensors, self.island
            )
        except TapestryError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if self.island.lead:
            files.publish_dir(unfinished, folder)
            for old in self.home.partials(job.run, job.round)[1:]:
                self.home.set_aside(old)
        self.island.barrier()

    def _passes(self, current: Round) -> Iterator[tuple[Tensor, float]]:
        """This rank's rows of a batch, so many as go through the model at once, with their weight in the
        batch's mean. Every rank has as many passes; one that has run out repeats a row without weight."""
        batch = current.task.batch(current.position)
        each = -(-len(batch) // self.island.ranks)
        at_once = min(self.settings.sequences_at_once or each, each)
        start = min(self.island.rank * each, len(batch))
        mine = batch[start : start + each]
        for first in range(0, each, at_once):
            rows = mine[first : first + at_once]
            weight = len(rows) / len(batch)
            yield (rows if len(rows) else batch[:1]).to(self.island.device), weight

    def _seed(self, current: Round) -> None:
        """Random numbers (of dropout) are a function of the place in the run, so no checkpoint holds any."""
        place = (current.plan.inner.seed, self.settings.node, current.position, self.island.rank)
        digest = hashlib.sha256("\0".join(map(str, place)).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _resume(self, current: Round, loaded: Loaded) -> bool:
        """Go on inside the round where a checkpoint of it is whole."""
        job = current.job
        for folder in self._shared(self.home.partials(job.run, job.round)):
            header = self._header(folder, job)
            if header is None or (header.plan, header.round, header.state) != (
                job.plan.digest,
                job.round,
                job.state,
            ):
                continue
            if header.text != current.text:
                log("checkpoint passed over", reason=f"{folder} is of other text")
                continue
            if job.evaluate and header.score is None:
                continue
            moments = current.optimizer.begin_at(header.optimizer_steps)
            into = _named("optimizer", moments) | named_parameters(loaded)
            checkpoint.load(folder, into, self.island)
            current.position = header.position
            current.losses = list(header.losses)
            current.score = header.score
            current.began = header.began
            return True
        return False

    def _go_on_from_earlier(self, current: Round, loaded: Loaded, source: BlobSource) -> None:
        """Moments and position of the last finished round; its parameters too, where the plan has a node go
        on from its own and they may."""
        job, streaming = current.job, current.plan.streaming
        origin = job.plan.origin
        if origin is not None:
            current.began = "reset"
        earlier = self.home.before(job) if self.island.lead else []
        for folder in self._shared([folder / INNER for _, folder in earlier]):
            header = self._header(folder, job)
            if header is None:
                continue
            if origin is not None:
                current.began = "kept" if header.run == origin.run else None
            moments = current.optimizer.begin_at(header.optimizer_steps)
            current.position = header.position
            into = _named("optimizer", moments)
            own = streaming.goes_on and header.parameters and may_go_on(header.merges, job)
            if own:
                into |= named_parameters(loaded)
            try:
                checkpoint.load(folder, into, self.island)
            except ArtifactError as e:  # another optimizer, by a revision of the plan
                log("inner optimizer begins anew", run=job.run, round=job.round, reason=e.message)
                current.optimizer.forget()
                current.began = "reset" if origin is not None else None
                loaded.take(source, current.base)
                return
            if not own:
                return
            if header.plan == (job.plan.digest if origin is None or header.run == job.run else origin.plan):
                inner = job.plan.inner
                current.origin = inner.steps_before(header.merges + 1)
                current.stride = inner.steps_at(header.merges) / header.of_steps
                if streaming.overlap_steps:
                    self.step_ahead(current, loaded, stopping=lambda: False)
            self.join(current, header.merges, job, loaded, source, current.base)
            return

    def _shared(self, folders: list[Path]) -> list[Path]:
        """The lead's view of which folders there are; a network file system may show others another."""
        names = "\n".join(str(folder.relative_to(self.home.root)) for folder in folders)
        told = self.island.share(names.encode()).decode()
        return [self.home.root / name for name in told.split("\n") if name]

    def _header(self, folder: Path, job: TrainJob) -> InnerState | None:
        try:
            header = checkpoint.read_header(folder, self.island)
        except TapestryError as e:
            log("checkpoint passed over", reason=e.message)
            return None
        runs = {job.run, job.plan.origin.run} if job.plan.origin is not None else {job.run}
        if header.run not in runs or header.layout != job.plan.layout:
            log("checkpoint passed over", reason=f"{folder} belongs to another run or layout")
            return None
        return header


def may_go_on(merges: int, job: TrainJob) -> bool:
    """Whether parameters that had so many merges are the job's to go on from: not where a fragment was
    merged twice since, nor from a core that lost merges."""
    return 0 <= job.merges - merges <= job.plan.streaming.fragments


def _named(prefix: str, tensors: dict[str, Tensor] | dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def named_parameters(loaded: Loaded) -> dict[str, Tensor]:
    """As a checkpoint names them."""
    return _named("parameter", loaded.parameters)
