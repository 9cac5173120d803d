"""A core, nodes with real agents and gates, and a line from each node to the core that can be disturbed.

What dies by a signal is started again, as a supervisor or an operator would. Trainers are stand-ins that
take a moment and hand over constants, so that nearly all time is spent where faults are to be survived.
"""

from __future__ import annotations

import heapq
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from benchmarks.machine import cpu_seconds

from tapestry.core import operator
from tapestry.node import setup
from tapestry.node.agent import KEEP_S
from tapestry.node.home import Home
from tapestry.protocol.plan import Plan
from tapestry.training.spool import TrainJob
from tests.chaos.wire import Wire
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node.support import NodeUnderTest, write_output

RUN = "run"
MANY_ROUNDS = 100_000


def fix_port(core: CoreUnderTest) -> int:
    """Have a core at the address it now has whenever it is started again."""
    port = int(core.url.rsplit(":", 1)[1])
    toml = core.root / "core.toml"
    toml.write_text(toml.read_text().replace("port = 0", f"port = {port}"))
    return port


def attach(home: Home, wire: Wire) -> None:
    """Have a node find its core at a line's end."""
    joined = setup.load_consortium(home).model_copy(update={"core_url": wire.url})
    home.consortium.write_bytes(joined.to_bytes())


class Toys:
    """The toy task: each job is done `pace_s` or less after it was given. One thread for all nodes, which
    looks at files' times alone: polling by many would cost more than what is measured."""

    def __init__(self, pace_s: float, look_s: float = 0.02) -> None:
        self._pace_s, self._look_s = pace_s, look_s
        self._random = random.Random(0)
        self._homes: list[tuple[Home, float, list[TrainJob]]] = []
        self._seen: dict[Path, int] = {}
        self._due: list[tuple[float, int, Home, float, TrainJob]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def add(self, home: Home, value: float) -> list[TrainJob]:
        """The jobs that this home's trainer will have been given."""
        jobs: list[TrainJob] = []
        self._homes.append((home, value, jobs))
        return jobs

    def begin(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._look_s):
            for home, value, jobs in self._homes:
                self._look(home, value, jobs)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, home, value, job = heapq.heappop(self._due)
                data = shards(value + 1 / (1 + job.round)) if job.train else []
                write_output(home, job, data)

    def _look(self, home: Home, value: float, jobs: list[TrainJob]) -> None:
        try:
            written = home.job.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if self._seen.get(home.root) == written:
            return
        self._seen[home.root] = written
        job = TrainJob.from_bytes(home.job.read_bytes())
        known = any(job == each for each in jobs)
        if known or home.output(job.run, job.round).exists():
            return
        jobs.append(job)
        due = time.monotonic() + self._random.uniform(0.2, 1.0) * self._pace_s
        heapq.heappush(self._due, (due, len(jobs), home, value, job))


class ChaosNode(NodeUnderTest):
    """A node behind a line."""

    def __init__(self, folder: Path, core: CoreUnderTest, name: str) -> None:
        super().__init__(folder, core, name)
        self.wire = Wire(int(core.url.rsplit(":", 1)[1]))
        attach(self.home, self.wire)
        self.jobs: list[TrainJob] = []

    def worker(self) -> int | None:
        """The replay worker's process id, where there is one. By its command: it may be forked from another
        process than the agent (`tests/warm.py`)."""
        wanted = {"tapestry.replay", str(self.home.blobs)}
        every = psutil.process_iter(["cmdline"])
        return next((each.pid for each in every if wanted <= set(each.info["cmdline"] or ())), None)

    def pid_of(self, role: str) -> int | None:
        if role == "worker":
            return self.worker()
        process = self.processes[role]
        return process.pid if process.poll() is None else None

    def cpu_s(self) -> float:
        """Of the processes it has now."""
        pids = (self.pid_of(role) for role in ("gate", "agent", "worker"))
        return sum(cpu_seconds(pid) for pid in pids if pid is not None)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.stop()
        self.wire.close()


class Scene:
    """One consortium with one run.

    Args:
        folder: for everything.
        nodes: how many.
        rounds: of the run.
        deadline_s: of a round; then more than half of the nodes are enough.
        prepare: see `CoreUnderTest`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        rounds: int = MANY_ROUNDS,
        deadline_s: float = 600.0,
        pace_s: float = 0.2,
        prepare: Callable[[], object] | None = None,
        **rules: Any,
    ) -> None:
        self.folder = folder
        self.core = CoreUnderTest(folder / "core")
        self.core.prepare = prepare
        self.core.start()
        self.port = fix_port(self.core)
        most = nodes // 2 + 1
        given = {"total": rounds, "min_nodes": nodes, "quorum": most, "deadline_s": deadline_s} | rules
        self.plan = make_plan(folder / "seed", witnesses=most, **given)
        operator.plan(self.core.root, self.plan, folder / "seed")
        operator.start(self.core.root, RUN)
        names = [f"n{number:02}" for number in range(nodes)]
        self.nodes = [ChaosNode(folder, self.core, name) for name in names]
        self.toys = Toys(pace_s)
        for number, node in enumerate(self.nodes, start=1):
            node.jobs = self.toys.add(node.home, float(number))
        self.restarts = 0

    def begin(self) -> None:
        self.toys.begin()
        for node in self.nodes:
            node.start(train=False)

    def view(self) -> Any:
        return operator.view(self.core.root, RUN)

    def tend(self) -> bool:
        """Start again what was killed; whether all nodes have ended well. Any other end is a finding."""
        process = self.core.process
        if process is not None and not process.is_alive():
            self.core.start()
            self.restarts += 1
        done = 0
        for node in self.nodes:
            for role, child in list(node.processes.items()):
                code = child.poll()
                if code is None or (role == "agent" and code == 0):
                    done += code == 0
                elif code < 0:
                    node.start_role(role, *(["--once"] if role == "agent" else []))
                    self.restarts += 1
                else:
                    raise AssertionError(f"{role} of {node.name} ended with {code}: {node.log(role)[-2000:]}")
        return done == len(self.nodes)

    def rounds_done(self) -> int:
        return int(self.view().head.merges)

    def lose_core(self) -> None:
        """The core's disk is gone in the middle of a round; the command sets it up again from its nodes."""
        self.core.kill()
        time.sleep(KEEP_S + 1.0)  # nobody is quicker; by then the nodes have on disk what they know
        shutil.rmtree(self.core.root)
        sources = [word for node in self.nodes for word in ("--from", str(node.home.root))]
        command = ["core", "recover", str(self.core.root), *sources, "--port", str(self.port)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tapestry.cli.main", *command],
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (self.core.root / "stderr.log").write_text(done.stderr)
        self.core.start()

    def end_after(self, more: int) -> Plan:
        """Have the run end `more` merges from now."""
        plan = operator.current_plan(self.core.root, RUN)
        rounds = plan.rounds.model_copy(update={"total": self.rounds_done() + more})
        last = plan.model_copy(update={"rounds": rounds, "revision": plan.revision + 1})
        operator.revise(self.core.root, last)
        return last

    def tails(self) -> str:
        logs = [self.core.root / "logs" / "core.log", *self.folder.glob("node-*/logs/agent.log")]
        texts = [(path, path.read_text(errors="replace")[-1200:]) for path in sorted(logs) if path.exists()]
        return "\n".join(f"== {path}\n{text}" for path, text in texts)

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.toys.stop()
        self.core.close()
