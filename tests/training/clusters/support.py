"""A node's home, a cluster of one machine, and the watcher between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tapestry.training.clusters import settings
from tapestry.training.clusters.contract import Cluster
from tapestry.training.clusters.opening import open_cluster

RANKS = Path(__file__).with_name("ranks.py")
NODE = '[node]\nmember = "acme"\nname = "acme-1"\n[training]\ncorpus = "text"\nthreads = 1\n'


def write_settings(home: Path, launcher: str, table: str = "", *, training: str = "") -> Path:
    """A home whose node.toml has these."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "node.toml").write_text(f'{NODE}launcher = "{launcher}"\n{training}\n{table}\n')
    return home


def opened(home: Path) -> Cluster:
    return open_cluster(home, settings.load(home))


def program(folder: Path) -> Path:
    """`ranks.py` as something to run in the place of Python."""
    path = folder / "ranks"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {RANKS} "$@"\n')
    path.chmod(0o755)
    return path


def wait_until(predicate: Callable[[], Any], timeout_s: float = 90.0, what: str = "") -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := predicate()):
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.01)
    return found


class Site:
    """One home and the programs of its cluster.

    Args:
        root: an empty folder.
        programs: folder with the cluster's commands.
        table: `[slurm]` or `[kubernetes]`, whole.
    """

    def __init__(self, root: Path, launcher: str, programs: Path, table: str, *, training: str = "") -> None:
        self.home = write_settings(root / "home", launcher, table, training=training)
        self.programs = programs
        self.watchers: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def watch(self) -> subprocess.Popen[bytes]:
        """Start the watcher as the supervisor does."""
        with (self.home / "watcher.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", "tapestry.training.clusters", "--home", str(self.home)]
            watcher = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment())
        self.watchers.append(watcher)
        return watcher

    def status(self, role: str = "trainer") -> dict[str, Any]:
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads((self.home / "status" / f"{role}.json").read_text()))
        return {}

    def record(self) -> dict[str, Any]:
        with suppress(FileNotFoundError):
            return dict(json.loads((self.home / "launch" / "job.json").read_text()))
        return {}

    def trains(self) -> bool:
        return self.status().get("phase") == "training" and self.status("launcher").get("phase") == "running"

    def log(self) -> list[dict[str, Any]]:
        lines = (self.home / "watcher.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self) -> list[str]:
        return [line["event"] for line in self.log() if "event" in line]

    def runs(self) -> list[dict[str, Any]]:
        """What each start of the ranks was given."""
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in (self.home / "ran").read_text().splitlines()]
        return []

    def close(self) -> None:
        for watcher in self.watchers:
            if watcher.poll() is None:
                watcher.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    watcher.wait(20)
            watcher.kill()
            watcher.wait()
