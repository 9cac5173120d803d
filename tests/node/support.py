"""A node's home with a real gate and agent, and a trainer that writes constant deltas at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapestry.core import operator
from tapestry.host import files
from tapestry.identity.keys import KeyPair
from tapestry.node import member, setup
from tapestry.node.home import Home
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.layout import Layout
from tapestry.protocol.messages import Progress
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TextScore, TrainJob, TrainResult
from tests import warm
from tests.core.support import EMPTY, CoreUnderTest, artifact, shards

Process = warm.Warm | subprocess.Popen[bytes]


def wait_until(predicate: Callable[[], Any], timeout_s: float = 60.0, what: str = "") -> Any:
    found = files.wait_for(predicate, timeout_s=timeout_s)
    assert found, what or "timed out"
    return found


def result_of(job: TrainJob, delta: Artifact | None, **other: Any) -> TrainResult:
    fields: dict[str, Any] = {
        "run": job.run,
        "plan": job.plan.digest,
        "round": job.round,
        "merges": job.merges,
        "state": job.state,
        "delta": delta.digest if delta else None,
        "tokens": 1000 if delta else 0,
        "steps": 10 if delta else 0,
        "data_manifest": EMPTY,
        "loss": 2.5 if delta else None,
        "score": TextScore(bits_per_byte=3.25, bytes=1000) if job.evaluate else None,
        "environment": {},
        "train_s": 0.5,
        "evaluate_s": 0.25,
    }
    return TrainResult(**(fields | other))


def write_output(
    home: Home, job: TrainJob, data: list[bytes], layout: Layout | None = None, **other: Any
) -> Path:
    """A finished folder as the trainer writes it; returns it."""
    delta = artifact("delta", data, *([layout] if layout else [])) if data else None
    folder = home.outputs / f"{job.run}.{job.round}.tmp"
    folder.mkdir(parents=True)
    for blob in data:
        (folder / artifact_name(blob)).write_bytes(blob)
    if delta is not None:
        (folder / "delta.json").write_bytes(delta.to_bytes())
        (folder / "inner").mkdir()
        (folder / "inner" / "state.json").write_bytes(b"stays here")
    (folder / "result.json").write_bytes(result_of(job, delta, **other).to_bytes())
    final = home.output(job.run, job.round)
    files.publish_dir(folder, final)
    return final


def artifact_name(data: bytes) -> str:
    from tapestry.protocol.canonical import sha256

    return sha256(data)


class FakeTrainer:
    """Does each job at once: a delta in which every element is `value` plus the round."""

    def __init__(
        self,
        home: Home,
        value: float,
        *,
        make: Callable[[TrainJob], list[bytes]] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self._home, self._value, self._layout = home, value, layout
        self._make = make or (lambda job: shards(value + job.round))
        self._stop = threading.Event()
        self.jobs: list[TrainJob] = []
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            try:
                job = TrainJob.from_bytes(self._home.job.read_bytes())
            except FileNotFoundError:
                continue
            if not self._home.output(job.run, job.round).exists():
                self.jobs.append(job)
                if job.train:
                    progress = Progress(round=job.round, step=5, steps=10, loss=2.0, tokens_per_s=10.0)
                    files.write_atomic(self._home.trainer_progress, progress.to_bytes(), durable=False)
                write_output(self._home, job, self._make(job) if job.train else [], self._layout)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class NodeUnderTest:
    """A joined node; `start` runs its gate and its agent."""

    cold = False
    """Start them as an operator would; otherwise they hold what the tests had loaded before them."""

    def __init__(self, folder: Path, core: CoreUnderTest, name: str, **settings: Any) -> None:
        self.name = f"{name}-1"
        self.core = core
        self.member_dir = folder / f"member-{name}"
        member.member_init(self.member_dir, name)
        (folder / "text").mkdir(exist_ok=True)
        self.home = setup.init(
            folder / f"node-{name}", self.member_dir, self.name, folder / "text", **settings
        )
        setup.join(self.home.root, core.url, operator.invite(core.root, name), member_dir=self.member_dir)
        self.processes: dict[str, Process] = {}
        self.trainer: FakeTrainer | None = None

    @property
    def store(self) -> BlobStore:
        return BlobStore.open(self.home.blobs)

    @property
    def key(self) -> KeyPair:
        return member.read_key(self.home.keys / "node.key")

    def start_role(self, role: str, *more: str, **environment: str) -> Process:
        words = [sys.executable, "-m", f"tapestry.node.{role}", "--home", str(self.home.root), *more]
        given, path = {**os.environ, **environment}, self.home.logs / f"{role}.log"
        if not self.cold:
            self.processes[role] = warm.start(words, log=path, environment=given)
            return self.processes[role]
        with open(path, "ab") as log:
            self.processes[role] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=given,
            )
        return self.processes[role]

    def start(
        self, value: float = 1.0, *, once: bool = True, train: bool = True, **trainer: Any
    ) -> NodeUnderTest:
        self.start_role("gate")
        self.start_role("agent", *(["--once"] if once else []))
        if train:
            self.trainer = FakeTrainer(self.home, value, **trainer)
        return self

    def wait(self, timeout_s: float = 60.0) -> int:
        """The agent's exit code."""
        return self.processes["agent"].wait(timeout_s)

    def status(self, role: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.home.status(role).read_text()))  # type: ignore[arg-type]
        except FileNotFoundError:
            return {}

    def log(self, role: str = "agent") -> str:
        return (self.home.logs / f"{role}.log").read_text()

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 15
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.trainer is not None:
            self.trainer.stop()
