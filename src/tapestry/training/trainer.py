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
from tapestry.protocol.canonical import sha256
from tapestry.protocol.plan import Plan
from tapestry.training.blobs import BlobFolder
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.home import Pace, Status, TrainerHome, log
from tapestry.training.inner import MAX_LOSS, InnerLoop, Round, may_go_on
from tapestry.training.island import ISLAND_OF_ONE, Island
from tapestry.training.loaded import Loaded
from tapestry.training.machine import environment
from tapestry.training.manifests import store_card, store_manifest
from tapestry.training.publish import publish
from tapestry.training.rights import Admitted, Rights, parse_protected, protected_data, stage_of, today
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TextScore, TrainJob
from tapestry.training.task import make_task

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
        self.corpus: Corpus | None = None
        self._rights = Rights(home, settings)
        self._manifests: dict[tuple[str, str], str] = {}
        """Of the corpus as it is, by digest of its card and stage."""
        self._protected = b""
        """The file of what is withheld, as the corpus was read with it."""
        self._job_seen: tuple[int, int, int] | None = None
        self._ahead: tuple[TrainJob, Round] | None = None
        """A finished job, and the round after it as far as it is trained."""
        self._ended: float | None = None
        self._waited_s = 0.0
        self._stopping = False
        self._in_steps = False
        self._environment = environment(settings, island, status.level)
        self._admitted: Admitted | None = None
        """What is trained on, at the rank that leads."""

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
        if self._ahead is not None and not _follows(self._ahead[0], job):
            self._ahead = None  # its memory goes before another model's comes
        admitted = self._admitted = (
            self._rights.admit(stage_of(job.plan), today()) if self.island.lead else None
        )
        self._protect()
        loaded = self._load(job.plan)
        corpus = self._corpus(loaded, admitted)
        if admitted is not None and _key(admitted) not in self._manifests:
            admitted.require(corpus)
        manifest = self._manifest(admitted, corpus, loaded) if admitted is not None else ""
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
        self._ended = time.monotonic()
        return True

    def _manifests_of(self, job: TrainJob, manifest: str) -> tuple[str, ...]:
        """As a round has them, the same at every rank."""
        ahead = self._ahead[1].manifests if self._ahead is not None else ()
        every = [manifest, *sorted({*self.home.earlier(job), *ahead})] if self.island.lead else []
        return tuple(self.island.share(" ".join(every).encode()).decode().split(" "))

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
                stopping=lambda: self._stopping or self._is_withdrawn(),
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
        """Whether a finished folder holds what the job asks for, and not of text that was withdrawn since."""
        if not self.home.is_done(job):
            return False
        return not self._rights.withdrawals.covers_manifest(self.home.trained_on(job.run, job.round))

    def _is_withdrawn(self) -> bool:
        """Whether the text that is trained on just now was withdrawn; False at ranks that do not lead."""
        return self._admitted is not None and self._rights.withdrawals.covers(self._admitted.file.card)

    def _stop_withdrawn(self, job: TrainJob) -> None:
        """Throw away what there is of a round whose text was withdrawn, and raise `RightsRefused`."""
        if self._admitted is None or not self._is_withdrawn():
            return
        self._ahead = None
        for number in (job.round, job.round + 1):
            self.home.set_aside(self.home.partial(job.run, number))
        self._rights.stop(self._admitted)

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

    def _protect(self) -> None:
        """Look at what the owner protects, the same at every rank; text that was read otherwise goes."""
        data = self.island.share(protected_data(self.home.root) if self.island.lead else b"")
        if data != self._protected:
            self._protected, self.corpus, self._manifests, self._ahead = data, None, {}, None

    def _load(self, plan: Plan) -> Loaded:
        if self.loaded is None or self.loaded.digest != plan.model:
            self.loaded = None  # its memory goes before the next model's comes
            self.loaded = Loaded.read(self.blobs, plan.model, self.island, self.settings)
            self.corpus, self._manifests = None, {}
        if self.loaded.model.layout != plan.layout:
            raise PlanError(f"the plan of {plan.run} names another layout than its model")
        longest = self.loaded.config.get("max_position_embeddings")
        if isinstance(longest, int) and plan.inner.sequence_length > longest:
            raise ModelError(
                f"sequence_length {plan.inner.sequence_length} is more than the model's "
                f"max_position_embeddings {longest}"
            )
        return self.loaded

    def _corpus(self, loaded: Loaded, admitted: Admitted | None) -> Corpus:
        """The text; the lead tokenizes it where that was not done before. Only text that is admitted."""
        if self.corpus is None:
            self.status.update(phase="reading")
            folder = self.settings.corpus_path(self.home.root)
            protected = parse_protected(self.home.root, self._protected)

            def opened(manifest: bytes) -> Corpus:
                return open_corpus(
                    folder, loaded.tokenizer, self.home.cache, manifest=manifest, protected=protected
                )

            manifest = b""
            if admitted is not None:
                manifest = admitted.files_manifest
                self.corpus = opened(manifest)
                if (without := self.corpus.withheld) is not None:
                    self.home.seen_protected()
                    log("documents withheld", train=without.train, valid=without.valid)
            manifest = self.island.share(manifest)
            if self.corpus is None:
                self.corpus = opened(manifest)
        return self.corpus

    def _manifest(self, admitted: Admitted, corpus: Corpus, loaded: Loaded) -> str:
        """Digest of the data manifest, which is kept at the node."""
        key = _key(admitted)
        if key not in self._manifests:
            manifest = admitted.data_manifest(corpus, loaded.tokenizer.digest)
            store_manifest(self.home.cache, manifest)
            store_card(self.home.cache, admitted.file)
            self._manifests = {key: sha256(manifest)}
        return self._manifests[key]

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
                ended = self._is_withdrawn()
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


def _key(admitted: Admitted) -> tuple[str, str]:
    return admitted.file.digest, admitted.stage


def _follows(finished: TrainJob, job: TrainJob) -> bool:
    """Whether a job is for what was trained ahead after another."""
    same = (finished.run, finished.plan) == (job.run, job.plan)
    return same and job.train and finished.round < job.round and may_go_on(finished.merges, job)
