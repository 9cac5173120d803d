"""The resident trainer of a node: one job after the other, each ending in a finished folder of the spool.

It starts round r from the job's base and from the inner state (optimizer, position in the text) that the
last finished round left. Delta and inner state become durable together by the rename of one folder, so a
kill at any moment repeats work but never changes the outcome: on one CPU type, number of ranks, thread
count and torch release the same jobs give the same bytes. Where there are many ranks the lead reads jobs
and decides; the others do the same at the same time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

from tapestry.errors import Diverged, ModelError, PlanError, TapestryError
from tapestry.host import failpoints, files
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import Plan
from tapestry.training.blobs import BlobFolder
from tapestry.training.home import Pace, Status, TrainerHome, log
from tapestry.training.inner import MAX_LOSS, InnerLoop, Round, may_go_on
from tapestry.training.island import ISLAND_OF_ONE, Island
from tapestry.training.loaded import Loaded
from tapestry.training.machine import environment
from tapestry.training.publish import publish
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TextScore, TrainJob
from tapestry.training.task import make_task
from tapestry.training.text import Text

POLL_S = 0.01
MAX_JOB_BYTES = 1 << 20
TELL_S = 30.0
"""While it has no job the lead tells the other ranks so this often."""


class Stopped(BaseException):
    """SIGTERM came. Not an `Exception`, so that nothing on the way mistakes it for a failure."""


class Trainer:
    """Does the jobs of one node's home.

    Args:
        home: the node's home.
        settings: of the node.
        status: where it says what it does.
        island: the ranks; each has a `Trainer`.
    """

    def __init__(
        self, home: TrainerHome, settings: TrainerSettings, status: Status, island: Island = ISLAND_OF_ONE
    ) -> None:
        self.home = home
        self.settings = settings
        self.status = status
        self.island = island
        self.inner = InnerLoop(home, settings, island)
        self.blobs = BlobFolder(home.blobs)
        self.loaded: Loaded | None = None
        self.text = Text(home, settings, island)
        self._job_seen: tuple[int, int, int] | None = None
        self._ahead: tuple[TrainJob, Round] | None = None
        """A finished job, and the round after it as far as it is trained."""
        self._ended: float | None = None
        self._waited_s = 0.0
        self._stopping = False
        self._in_steps = False
        self._environment = environment(settings, island, status.level)

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: in the middle of a round a checkpoint is written first."""
        signal.signal(number, signal.SIG_IGN)
        self._stopping = True
        if not self._in_steps:
            raise Stopped

    def serve(self) -> None:
        """Do jobs until told to stop. Raises what the first job that cannot be done raises."""
        while True:
            self.do(self._await_job())

    def do(self, job: TrainJob) -> bool:
        """Do one job; False where a newer one took its place. Harmless for a job that is done."""
        if self.island.any(self.island.lead and self._is_done(job)):
            return True
        self.status.update(phase="loading", run=job.run, round=job.round)
        if self.island.lead:
            self.home.forget(job)
        if self._ahead is not None and not self._is_of_use(*self._ahead, job):
            self._ahead = None  # its memory goes before another model's comes
        self.text.admit(job.plan)
        if self.text.protect():
            self._ahead = None
        loaded = self._load(job.plan)
        if self.text.corpus is None:
            self.status.update(phase="reading")
        corpus, manifest = self.text.read(loaded)
        task = make_task(job.plan, corpus, self.settings.node)
        base = loaded.base(self.blobs, job.base)
        manifests = self._manifests_of(job, manifest)
        current = self._joined(job, loaded, base)
        if current is None:
            current = self.inner.begin(job, loaded, task, self.blobs, base, manifests=manifests)
        current.manifests = manifests
        current.waited_s, self._waited_s = self._waited_s, 0.0
        if job.evaluate and current.score is None:
            self._score(current, loaded)
        if job.train and not self._train(current, loaded):
            self._ended = time.monotonic()
            return False
        self.status.update(phase="publishing")
        self._stop_withdrawn(job)  # after the manifest was written: whoever withdraws looks for it after that
        if self.text.has_withdrawn(manifests[1:]):
            return self._do_anew(job)
        self._publish(current, loaded, manifest)
        self._ended = time.monotonic()
        return True

    def _publish(self, current: Round, loaded: Loaded, manifest: str) -> None:
        """Make the round's folder; with steps of the next round meanwhile, where the plan has it so."""
        job = current.job
        stated = self._environment | ({"inner": current.began} if current.began is not None else {})

        def finish() -> None:
            publish(
                self.home,
                self.blobs,
                current,
                loaded,
                island=self.island,
                manifest=manifest,
                environment=stated,
            )
            if self.island.lead:
                log(
                    "round finished" if job.train else "base scored",
                    run=job.run,
                    round=job.round,
                    steps=current.step,
                    train_s=round(current.train_s, 3),
                    evaluate_s=round(current.evaluate_s, 3),
                )

        if not _goes_ahead(job):
            finish()
        elif not self.island.alone:  # ranks exchange in one order, so not in two threads
            finish()
            self._train_ahead(current, loaded)
        else:
            # What is published is only read, and the next step changes nothing before its gradient is there.
            with ThreadPoolExecutor(1, "publish") as pool:
                self._train_ahead(current, loaded, before_update=pool.submit(finish).result)

    def _manifests_of(self, job: TrainJob, manifest: str) -> tuple[str, ...]:
        """As a round has them, the same at every rank."""
        ahead = self._ahead[1].manifests if self._ahead is not None else ()
        every = [manifest, *sorted({*self.home.earlier(job), *ahead})] if self.island.lead else []
        return tuple(self.island.share(" ".join(every).encode()).decode().split(" "))

    def _is_of_use(self, finished: TrainJob, ahead: Round, job: TrainJob) -> bool:
        """Whether what was trained ahead after a finished job may be gone on from."""
        return _follows(finished, job) and not self.text.has_withdrawn(ahead.manifests)

    def _do_anew(self, job: TrainJob) -> bool:
        """The text is permitted still, but a round that this one went on from was of other text, which was
        withdrawn meanwhile: it begins anew, from what is left."""
        log("round begins anew: what it went on from was withdrawn", run=job.run, round=job.round)
        if self.island.lead:
            self.home.set_aside(self.home.partial(job.run, job.round))
        self._job_seen = None
        return False

    def _joined(self, job: TrainJob, loaded: Loaded, base: Artifact) -> Round | None:
        """The round as far as it was trained ahead of its job; None where that was for another."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        finished, current = ahead
        self.inner.join(current, finished.merges, job, loaded, self.blobs, base)
        return current

    def _train_ahead(
        self, finished: Round, loaded: Loaded, before_update: Callable[[], object] = lambda: None
    ) -> None:
        """Take the first steps of the next round while what came of this one is sent and merged."""
        self.status.update(phase="training ahead")
        current = self.inner.ahead(finished)
        started = time.monotonic()
        self._in_steps = True
        try:
            going = self.inner.step_ahead(
                current,
                loaded,
                stopping=lambda: self._stopping or self.text.is_withdrawn(),
                before_update=before_update,
            )
            if not going:
                self._stop_withdrawn(finished.job)
                raise Stopped
        finally:
            self._in_steps = False
        current.train_s = time.monotonic() - started
        self._ahead = (finished.job, current)

    def _await_job(self) -> TrainJob:
        """The next job, the same at every rank."""
        while True:
            self._go_on()
            data = b""
            if self.island.lead:
                job, deadline = self._next_job(), time.monotonic() + TELL_S
                if job is None:
                    self.status.update(phase="waiting", step=None, steps=None)
                while job is None and (self.island.alone or time.monotonic() < deadline):
                    time.sleep(POLL_S)
                    self._go_on()
                    job = self._next_job()
                data = job.to_bytes() if job is not None else b""
            if data := self.island.share(data):
                if self._ended is not None:
                    self._waited_s = time.monotonic() - self._ended
                return TrainJob.from_bytes(data)

    def _go_on(self) -> None:
        """Raises `Stopped` where what the signal's handler raised was lost in a finalizer."""
        if self._stopping:
            raise Stopped

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
        return None if self._is_done(job) else job

    def _is_done(self, job: TrainJob) -> bool:
        """Whether a finished folder holds what the job asks for, and nothing of text withdrawn since."""
        return self.home.is_done(job) and not self.home.has_withdrawn(
            job.run, job.round, self.text.rights.withdrawals
        )

    def _stop_withdrawn(self, job: TrainJob) -> None:
        """Throw away what there is of a round whose text was withdrawn, and raise `RightsRefused`."""
        admitted = self.text.admitted
        if admitted is None or not self.text.is_withdrawn():
            return
        self._ahead = None
        for number in (job.round, job.round + 1):
            self.home.set_aside(self.home.partial(job.run, number))
        self.text.rights.stop(admitted)

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
            self.loaded = None  # its memory goes before the next model's comes
            self.loaded = Loaded.read(self.blobs, plan.model, self.island, self.settings)
            self.text.forget()
        if self.loaded.model.layout != plan.layout:
            raise PlanError(f"the plan of {plan.run} names another layout than its model")
        longest = self.loaded.config.get("max_position_embeddings")
        if isinstance(longest, int) and plan.inner.sequence_length > longest:
            raise ModelError(
                f"sequence_length {plan.inner.sequence_length} is more than the model's "
                f"max_position_embeddings {longest}"
            )
        return self.loaded

    def _score(self, current: Round, loaded: Loaded) -> None:
        """Of the shared base, which is not what a node trains that goes on from its own parameters."""
        if not (current.job.train and current.plan.streaming.goes_on):
            self._evaluate(current, loaded)
            return
        own = loaded.rows.copies()
        loaded.take(self.blobs, current.base)
        self._evaluate(current, loaded)
        loaded.rows.restore(own)

    def _evaluate(self, current: Round, loaded: Loaded) -> None:
        self.status.update(phase="evaluating")
        started = time.monotonic()
        scored = current.task.evaluate(loaded.module, self.island)
        current.evaluate_s = time.monotonic() - started
        if not scored.finite or scored.bits_per_byte > MAX_LOSS:
            raise Diverged(
                f"the base of round {current.job.round} has no finite score",
                hint="the shared base is broken; lower the outer or inner learning rate",
            )
        current.score = TextScore(bits_per_byte=scored.bits_per_byte, bytes=scored.bytes)

    def _train(self, current: Round, loaded: Loaded) -> bool:
        """All steps of the round; False where a newer job came."""
        steps = current.job.round_steps
        self.status.update(phase="training", step=current.step, steps=steps)
        loaded.module.train()
        pace = Pace(self.home.progress, current.job.round, steps, current.task.batch_tokens)
        started = saved = time.monotonic()
        self._in_steps = True
        limit, over = current.plan.inner.seconds, False
        try:
            while current.step < steps and not over:
                overtaken = self.island.lead and self._superseded(current.job)
                due = self.island.lead and time.monotonic() - saved >= self.settings.checkpoint_s
                spent = current.train_s + time.monotonic() - started
                over = limit is not None and self.island.lead and spent >= limit
                ended = self.text.is_withdrawn()
                flags = self.inner.step(current, loaded, self._stopping, overtaken, due, over, ended)
                stopping, overtaken, due, over, ended = flags
                failpoints.reach("trainer.step")
                if self.island.lead:
                    pace.tell(current.losses, current.plan.inner.accumulation)
                if ended:
                    self._stop_withdrawn(current.job)
                    return False  # at ranks that do not lead
                if overtaken:
                    log("a newer job came", round=current.job.round, step=current.step)
                    return False
                if (due and current.step < steps) or stopping:
                    self.inner.save(current, loaded)
                    saved = time.monotonic()
                if stopping:
                    raise Stopped
        finally:
            self._in_steps = False
            current.train_s += time.monotonic() - started
        return True


def _goes_ahead(job: TrainJob) -> bool:
    """Whether steps of the next round follow before its base is there."""
    more = job.merges + 1 < job.plan.rounds.total
    return job.train and more and job.plan.streaming.overlap_steps > 0


def _follows(finished: TrainJob, job: TrainJob) -> bool:
    """Whether a job is for what was trained ahead after another."""
    same = (finished.run, finished.plan) == (job.run, job.plan)
    return same and job.train and finished.round < job.round and may_go_on(finished.merges, job)
