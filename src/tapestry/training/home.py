"""What the trainer reads and writes of a node's home; see "Node home" in docs/architecture.md."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.errors import TapestryError, by_code
from tapestry.host import files, isolation
from tapestry.protocol.canonical import is_name
from tapestry.protocol.messages import Progress
from tapestry.training.spool import TrainJob, TrainResult
from tapestry.training.withdrawals import Withdrawals

RESULT = "result.json"
DELTA = "delta.json"
INNER = "inner"
"""Folder with the inner state that a round ended with."""
MANIFESTS = "manifests.json"
"""In that folder: hashes of the data manifests of rounds that it goes on from."""
MAX_RESULT_BYTES = 1 << 16
MAX_MANIFESTS_BYTES = 1 << 20
PROGRESS_S = 0.25
ANOTHER_S = 1.0


@dataclass(frozen=True)
class TrainerHome:
    """Paths of the spool, and the rules for its folders."""

    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def seen_protected(self) -> None:
        """Leave a mark that this node has a protected.toml."""
        (self.cache / "protected").touch()

    @property
    def spool(self) -> Path:
        return self.root / "spool" / "train"

    @property
    def lock(self) -> Path:
        """Held by whoever trains here."""
        return self.spool / ".lock"

    @property
    def job(self) -> Path:
        return self.root / "spool" / "job" / "job.json"

    @property
    def progress(self) -> Path:
        return self.spool / "progress.json"

    @property
    def out(self) -> Path:
        return self.spool / "out"

    def result(self, run: str, round: int) -> Path:
        """The finished folder of a round."""
        return self.out / f"{run}.{round}"

    def unfinished(self, run: str, round: int) -> Path:
        return self.out / f"{run}.{round}.tmp"

    def partial(self, run: str, round: int) -> Path:
        """Folder of the checkpoints inside a round, each named by its step."""
        return self.out / f"{run}.{round}.partial"

    def partials(self, run: str, round: int) -> list[Path]:
        """Checkpoints inside a round, newest first."""
        folder = self.partial(run, round)
        names = [e.name for e in folder.iterdir()] if folder.is_dir() else []
        steps = sorted((int(n) for n in names if n.isascii() and n.isdigit()), reverse=True)
        return [folder / str(step) for step in steps]

    def make_folders(self) -> None:
        """What the trainer writes to."""
        with files.full_disk(self.root):
            for folder in (self.out, self.cache, self.root / "status"):
                folder.mkdir(parents=True, exist_ok=True)

    def clean(self) -> None:
        """Remove what an earlier trainer left unfinished."""
        for folder in (self.spool, self.out):
            files.clean_temporaries(folder)
        for left in [*self.out.glob("*.tmp"), *self.out.glob("*.old"), *self.out.glob("*.partial/*.tmp")]:
            shutil.rmtree(left)

    def rounds(self, run: str) -> list[int]:
        """Rounds of a run that have a finished folder, newest first."""
        found = []
        for entry in self.out.iterdir():
            name, dot, number = entry.name.rpartition(".")
            if dot and name == run and is_name(name) and number.isascii() and number.isdigit():
                found.append(int(number))
        return sorted(found, reverse=True)

    def trained_on(self, run: str, round: int) -> str:
        """Hash of the data manifest of a finished round; "" where there is none."""
        try:
            path = self.result(run, round) / RESULT
            return TrainResult.from_bytes(files.read_limited(path, MAX_RESULT_BYTES)).data_manifest
        except (OSError, TapestryError):
            return ""

    def holds_of(self, run: str, round: int) -> frozenset[str]:
        """Hashes of the data manifests of which a finished round has something: its own, and those of rounds
        whose moments, parameters or residual it went on from. "" is among them where that is not known."""
        path = self.result(run, round) / INNER / MANIFESTS
        try:
            earlier = json.loads(files.read_limited(path, MAX_MANIFESTS_BYTES))
            return frozenset((self.trained_on(run, round), *map(str, earlier)))
        except FileNotFoundError:  # it began anew
            return frozenset((self.trained_on(run, round),))
        except (OSError, TapestryError, ValueError, TypeError):
            return frozenset(("",))

    def has_withdrawn(self, run: str, round: int, withdrawals: Withdrawals) -> bool:
        """Whether a finished round has something of text that was withdrawn since."""
        return any(map(withdrawals.covers_manifest, self.holds_of(run, round)))

    def earlier(self, job: TrainJob) -> list[str]:
        """The same of all that a job may go on from, in ascending order."""
        every = [self.holds_of(*_named(folder)) for _, folder in self.before(job)]
        return sorted(frozenset().union(*every))

    def before(self, job: TrainJob) -> list[tuple[int, Path]]:
        """Finished rounds that a job may go on from, newest first: of its run; where there is none yet, of
        the run that it repeats, as far as that stays. Rounds with text that was withdrawn are not among them:
        what the optimizer or a residual keeps of it goes nowhere."""
        own, origin = self._usable(job.run, job.round - 1), job.plan.origin
        return own if own or origin is None else self._usable(origin.run, origin.round)

    def withdrawn_before(self, job: TrainJob) -> list[int]:
        """Finished rounds that it would go on from, had no text been withdrawn."""
        withdrawals, origin = Withdrawals(self.root), job.plan.origin
        lasts = {job.run: job.round - 1} | ({origin.run: origin.round} if origin is not None else {})
        return [
            number
            for run, last in lasts.items()
            for number in self.rounds(run)
            if number <= last and self.has_withdrawn(run, number, withdrawals)
        ]

    def _usable(self, run: str, last: int) -> list[tuple[int, Path]]:
        withdrawals = Withdrawals(self.root)
        return [
            (number, self.result(run, number))
            for number in self.rounds(run)
            if number <= last and not self.has_withdrawn(run, number, withdrawals)
        ]

    def is_done(self, job: TrainJob) -> bool:
        """Whether the finished folder of the job's round holds what the job asks for."""
        path = self.result(job.run, job.round) / RESULT
        try:
            result = TrainResult.from_bytes(files.read_limited(path, MAX_RESULT_BYTES))
        except (OSError, TapestryError):
            return False
        return (
            (result.plan, result.state) == (job.plan.digest, job.state)
            and (result.delta is not None or not job.train)
            and (result.score is not None or not job.evaluate)
        )

    def set_aside(self, folder: Path) -> None:
        """Remove a folder; for whoever watches it is gone at once."""
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
            shutil.rmtree(old)

    def forget(self, job: TrainJob) -> None:
        """Apply the plan's retention: of the rounds before the job's, the last `inner_rounds` stay; later
        ones are of a history that the core has lost."""
        for number in self.rounds(job.run):
            if number > job.round:
                self.set_aside(self.result(job.run, number))
        earlier = [number for number in self.rounds(job.run) if number < job.round]
        for number in earlier[job.plan.retention.inner_rounds :]:
            self.set_aside(self.result(job.run, number))
        for folder in self.out.glob(f"{job.run}.*.partial"):
            text = folder.name.removeprefix(f"{job.run}.").removesuffix(".partial")
            if text.isdigit() and int(text) != job.round:
                self.set_aside(folder)


def _named(folder: Path) -> tuple[str, int]:
    """Run and round of a finished folder."""
    run, _, number = folder.name.rpartition(".")
    return run, int(number)


class Status:
    """`status/trainer.json`, rewritten when something changed; also how the trainer ended.

    `pid` is the process that a supervisor started: torchrun's where there is one; `worker` is this one's.
    Ranks other than the first say only how they ended, in `status/trainer-<rank>.json`.
    """

    def __init__(self, home: TrainerHome, *, rank: int = 0) -> None:
        self._folder = home.root / "status"
        self._rank = rank
        self._path = self._folder / (f"trainer-{rank}.json" if rank else "trainer.json")
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        self.level = isolation.measure()
        self._value: dict[str, Any] = {
            "role": "trainer",
            "pid": os.getppid() if under_torchrun else os.getpid(),
            "worker": os.getpid(),
            "level": self.level,
            "phase": "starting",
        }
        if rank:
            self._path.unlink(missing_ok=True)

    def update(self, **fields: Any) -> None:
        """Set fields; None removes one."""
        changed = {name: value for name, value in {**self._value, **fields}.items() if value is not None}
        if self._rank and "error" not in changed:
            return
        if changed != self._value or not self._path.exists():
            self._value = changed
            self._path.parent.mkdir(parents=True, exist_ok=True)
            value = json.dumps({**changed, "time": time.time()}).encode() + b"\n"
            files.write_atomic(self._path, value, durable=False)

    def begin(self, start: str) -> None:
        """Name this start of the ranks, the same at each."""
        self._value["start"] = start

    def fail(self, error: TapestryError) -> None:
        """Write the error here, and as JSON on the last line of standard error."""
        described = {"code": error.code, "message": error.message, "hint": error.hint}
        try:
            self.update(phase="failed", error=described)
        finally:
            sys.stderr.write(json.dumps({"error": described}) + "\n")
            sys.stderr.flush()

    def told_by_another(self, *, patience_s: float = ANOTHER_S) -> TapestryError | None:
        """What another rank of this start said it ended with, as the lead sees it."""
        deadline = time.monotonic() + patience_s
        while self._rank == 0:
            for path in sorted(self._folder.glob("trainer-*.json")):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    value = json.loads(files.read_limited(path, MAX_RESULT_BYTES))
                    error = value["error"]
                    if value["start"] == self._value["start"]:
                        return by_code(str(error["code"]))(str(error["message"]), hint=error["hint"])
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return None


class Pace:
    """Writes `progress.json`, four times a second at most."""

    def __init__(self, path: Path, round: int, steps: int, batch_tokens: int) -> None:
        self.path, self.round, self.steps, self.batch_tokens = path, round, steps, batch_tokens
        self._told = self._started = time.monotonic()
        self._first: int | None = None

    def tell(self, losses: list[float], accumulation: int) -> None:
        now, step = time.monotonic(), len(losses)
        if self._first is None:
            self._first = step - 1
        if now - self._told < PROGRESS_S and step < self.steps:
            return
        self._told = now
        last = losses[-10:]
        rate = (step - self._first) * accumulation * self.batch_tokens / max(now - self._started, 1e-9)
        progress = Progress(
            round=self.round,
            step=step,
            steps=self.steps,
            loss=math.fsum(last) / len(last),
            tokens_per_s=rate,
        )
        files.write_atomic(self.path, progress.to_bytes(), durable=False)


def log(event: str, **fields: Any) -> None:
    """One JSON line on standard error, which is the trainer's log. No text of the corpus goes in here."""
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n")
    sys.stderr.flush()
