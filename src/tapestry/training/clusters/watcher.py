"""Sees one node's ranks through one job of a cluster: from the queue to its end.

A job survives its watcher. The next watcher finds it by the name that all jobs of a home have, takes it up
if it was submitted with the settings of now, and cancels it if not; so there is one job, whoever is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from tapestry.errors import Busy, HashMismatch, NotFound, ProcessDied, SettingsError, Unreachable
from tapestry.host import files
from tapestry.training.clusters.contract import Cluster, Seen
from tapestry.training.clusters.record import Record, RecordFile
from tapestry.training.clusters.report import Report, log

T = TypeVar("T")

ENDED: Final = 1
"""Exit code when the job ended without a typed error: the supervisor starts a watcher, which submits."""
TICK_S: Final = 0.1
FIRST_POLL_S: Final = 1.0
HEED_S: Final = 1.0
"""Between two looks at what the ranks say."""
AWAY_S: Final = 120.0
"""Longest pause between two tries while the scheduler gives no answer."""
SETTLE_S: Final = 15.0
"""So long a submission that was cut short may take to show up in the queue."""
STOP_S: Final = 600.0
"""After so long a scheduler that cannot be told of a job's end is given up."""
TELL_AGAIN_S: Final = 10.0
MAX_REFUSALS: Final = 3
"""A submission that was refused this often in a row is an error of the settings."""
SOON_S: Final = 120.0
MAX_FAILURES: Final = 5
"""So many jobs in a row, each ended by itself within SOON_S of running, are an error."""
SAME_ERROR: Final = 2
"""Starts of the ranks that end with the same typed error before the job is cancelled for it."""
KEEP_LOGS: Final = 10
"""Logs of so many jobs stay."""
PATIENT: Final = (HashMismatch, NotFound, Busy)
"""Errors that may pass: the agent fetches a blob anew, a predecessor ends."""
LOOK_S: Final = 5.0
"""A job's last words may take so long to cross a shared file system."""


class Watcher:
    """Of one home.

    Args:
        cluster: where its job runs.
        home: the node's, absolute.
        report: where it says how the job stands.
    """

    def __init__(self, cluster: Cluster, home: Path, report: Report) -> None:
        self.cluster = cluster
        self.folder = home / "launch"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._logs = home / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.report = report
        self._record = RecordFile(self.folder / "job.json")
        self._stopping = False
        self._said: tuple[str, str] | None = None
        self._times: set[float] = set()

    def stop(self) -> None:
        """Cancel the job; called by a signal handler."""
        self._stopping = True

    def run(self) -> int:
        """Until the job ends; the exit code of the process.

        Raises:
            SettingsError: the scheduler refuses the job, or is not there.
            ProcessDied: one job after the other ends at once.
            TapestryError: what the ranks ended with.
        """
        self.report.say("starting", launcher=self.cluster.name)
        job = self._taken_up() or self._submitted()
        return 0 if job is None else self._watch(job)

    def _taken_up(self) -> str | None:
        """The job of an earlier watcher that is still there, or ended while nobody looked."""
        record = self._record.now
        live = self._ask(self.cluster.live)
        if record.submitting and live == []:
            live = self._settled()
        if live is None:
            return record.job
        good = [seen for seen in live if self._is_ours(seen, record)]
        good.sort(key=lambda seen: (seen.job != record.job, seen.phase != "running"))
        for seen in live:
            if seen not in good[:1]:
                log("job-withdrawn", job=seen.job, why="another job of this node, or of other settings")
                self._cancelled(seen.job)
        if good:
            log("job-taken-up", job=good[0].job, phase=good[0].phase)
            self._record.change(job=good[0].job, digest=self.cluster.digest, submitting=False)
            return good[0].job
        if record.job is not None and not record.cancelled and record.digest == self.cluster.digest:
            return record.job
        self._record.save(Record(failures=record.failures))
        return None

    def _is_ours(self, seen: Seen, record: Record) -> bool:
        if seen.phase not in ("queued", "running") or (record.cancelled and seen.job == record.job):
            return False
        known = record.digest if seen.job == record.job else seen.digest
        return known == self.cluster.digest

    def _settled(self) -> list[Seen] | None:
        """Jobs of this node after a submission was cut short."""
        deadline = time.monotonic() + SETTLE_S
        while not (live := self._ask(self.cluster.live)) and time.monotonic() < deadline:
            if live is None:
                return None
            self._sleep(min(FIRST_POLL_S, self.cluster.poll_s))
        return live

    def _submitted(self) -> str | None:
        """A new job; None where told to stop before."""
        self.report.forget_ranks()
        self.report.say("submitting", job=None, reason=None, trouble=None)
        self._sleep(self._record.now.failures * self.cluster.poll_s)
        self._tidy()
        refusals = 0
        while not self._stopping:
            self._record.change(submitting=True, job=None, cancelled=False, running_since=None)
            try:
                job = self.cluster.submit(self.folder)
            except Unreachable as e:
                self.report.say("submitting", trouble=e.message)
                self._sleep(min(self.cluster.poll_s, AWAY_S))
                if (found := self._taken_up()) is not None:
                    return found  # it had come through
            except SettingsError:
                refusals += 1
                if refusals == MAX_REFUSALS:
                    self._record.change(submitting=False)
                    raise
                self._sleep(refusals * min(self.cluster.poll_s, FIRST_POLL_S))
            else:
                self._record.change(job=job, digest=self.cluster.digest, submitting=False)
                log("job-submitted", job=job, launcher=self.cluster.name)
                return job
        return None

    def _tidy(self) -> None:
        """Of the logs that jobs left, the newest stay."""
        logs = sorted(self._logs.glob("job-*.log"), key=lambda path: path.stat().st_mtime)
        for path in logs[:-KEEP_LOGS]:
            path.unlink(missing_ok=True)

    def _watch(self, job: str) -> int:
        """Until it has ended."""
        pause = min(FIRST_POLL_S, self.cluster.poll_s)
        due = heed = 0.0
        while True:
            if self._stopping:
                return self._withdrawn(job)
            if time.monotonic() >= heed:
                self._heed_the_ranks(job)
                heed = time.monotonic() + min(HEED_S, self.cluster.poll_s)
            if time.monotonic() >= due:
                try:
                    seen = self.cluster.state(job)
                except Unreachable as e:
                    self.report.say(self.report.phase, job=job, trouble=e.message)
                    pause = min(2 * pause, AWAY_S)
                else:
                    self._tell(seen)
                    if seen.phase == "gone":
                        return self._ended(seen)
                    pause = min(2 * pause, self.cluster.poll_s)
                due = time.monotonic() + pause
            self._sleep(TICK_S)

    def _tell(self, seen: Seen) -> None:
        self.report.say(seen.phase, job=seen.job, reason=seen.reason, trouble=None)
        if seen.phase == "running" and self._record.now.running_since is None:
            self._record.change(running_since=time.time())

    def _heed_the_ranks(self, job: str) -> None:
        """torchrun starts ranks again that ended with a typed error, to no avail: raise what they say."""
        told = self.report.error()
        if told is None or isinstance(told[0], PATIENT):
            return
        error, at = told
        said = (error.code, error.message)
        if said != self._said:
            self._said, self._times = said, set()
        self._times.add(at)
        if len(self._times) >= SAME_ERROR:
            self._cancelled(job)
            self._record.save(Record())
            raise error

    def _ended(self, seen: Seen) -> int:
        """How the watcher ends now that the job has."""
        record, started = self._record.now, self.report.ranks_started()
        ran_s = time.time() - record.running_since if record.running_since is not None else 0.0
        log("job-ended", job=seen.job, how=seen.reason, ran_s=round(ran_s, 1), lost=seen.lost)
        if not seen.lost and (told := files.wait_for(self.report.error, timeout_s=self._look_s())):
            self._record.save(Record())
            raise told[0]
        failures = record.failures
        if not seen.lost:
            failures = 0 if started and ran_s >= SOON_S else failures + 1
        if failures >= MAX_FAILURES:
            self._record.save(Record())
            raise ProcessDied(
                f"{failures} jobs of {self.cluster.name} in a row ended at once; {seen.job} with"
                f" {seen.reason or 'no reason given'}",
                hint=f"see {self.cluster.output(seen.job)}",
            )
        self.report.forget_ranks()
        self._record.save(Record(failures=failures))
        self.report.say("ended", reason=seen.reason)
        return ENDED

    def _look_s(self) -> float:
        return min(LOOK_S, self.cluster.poll_s)

    def _withdrawn(self, job: str) -> int:
        """Told to stop: no job is left behind."""
        self._record.change(cancelled=True)
        self._cancelled(job)
        self._record.save(Record(failures=self._record.now.failures))
        with suppress(Unreachable):
            self.cluster.tidy(job)
        self.report.say("stopped", reason=None, trouble=None)
        return 0

    def _cancelled(self, job: str) -> None:
        """Tell a job to end and wait until it is gone. Raises `Unreachable` after STOP_S."""
        deadline, again = time.monotonic() + STOP_S, 0.0
        while True:
            try:
                if time.monotonic() >= again:
                    self.cluster.cancel(job)
                    again = time.monotonic() + TELL_AGAIN_S
                seen = self.cluster.state(job)
                if seen.phase == "gone":
                    return
                self.report.say("ending", job=job, reason="cancelled", trouble=None)
            except Unreachable as e:
                self.report.say("ending", job=job, trouble=e.message)
                if time.monotonic() > deadline:
                    raise
            time.sleep(min(FIRST_POLL_S, self.cluster.poll_s))

    def _ask(self, question: Callable[[], T]) -> T | None:
        """Until the scheduler answers; None where told to stop meanwhile."""
        pause = min(FIRST_POLL_S, self.cluster.poll_s)
        while not self._stopping:
            try:
                answer = question()
            except Unreachable as e:
                self.report.say(self.report.phase, trouble=e.message)
                self._sleep(pause)
                pause = min(2 * pause, AWAY_S)
            else:
                self.report.say(self.report.phase, trouble=None)
                return answer
        return None

    def _sleep(self, seconds: float) -> None:
        """Less if told to stop."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(TICK_S, left))
