"""Starts a node's processes, starts again what was killed, stops all when one cannot go on.

Loads neither torch nor HTTP: whatever happens to a child, the supervisor is small and stays.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tapestry.errors import ProcessDied, SettingsError
from tapestry.host import files, processes
from tapestry.host.landlock import Rule
from tapestry.host.users import User
from tapestry.node import agent_user, airlock, child, settings
from tapestry.node.home import Home, Role, write_status
from tapestry.node.mend import MENDABLE
from tapestry.training import launcher

POLL_S: Final = 0.02
GRACE_S: Final = 10.0
"""A child that was asked to end is killed after this long."""
CLUSTER_GRACE_S: Final = 60.0
"""The same where the trainer is a job of a cluster: its watcher cancels it and waits for it to be gone."""
MAX_CRASHES: Final = 5
"""A child that ends this often in a row with an untyped failure, each time soon, is given up."""
SOON_S: Final = 10.0
MAX_REPORT_BYTES: Final = 4 << 20
MAX_LOG_BYTES: Final = 16 << 20
_KILLED: Final = re.compile(rb"exitcode\s*:\s*-\d+")

Start = Callable[[], processes.Child]


@dataclass
class Kept:
    """One child and what became of it so far."""

    role: Role
    start: Start
    child: processes.Child | None = None
    started: float = 0.0
    due: float = 0.0
    restarts: int = 0
    crashes: int = 0
    log_start: int = 0
    backoff: processes.Backoff = field(default_factory=processes.Backoff)


class Supervisor:
    """Of one home, whose lock is held.

    Args:
        home: the node's.
        once: the agent ends by itself when all runs are finished.
        starts: how to start each child, in order; the usual three if None.
        cluster: the trainer's child watches a job of a cluster, which may outlive it: what the ranks said
            in the trainer's status file stays when the watcher is started again.
    """

    def __init__(
        self,
        home: Home,
        *,
        once: bool = False,
        starts: dict[Role, Start] | None = None,
        cluster: bool = False,
    ) -> None:
        self._home = home
        self._once = once
        self._cluster = cluster
        starts = starts if starts is not None else usual_children(home, once=once)
        self._kept = [Kept(role, start) for role, start in starts.items()]
        self._stopping = False

    def run(self) -> bool:
        """Until a signal comes (False) or, with `once`, the agent is done (True).

        Raises:
            TapestryError: what a child ended with.
        """
        previous = {
            number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            self._say("running")
            while not self._stopping:
                for kept in self._kept:
                    if self._tend(kept):
                        return True
                time.sleep(POLL_S)
            return False
        finally:
            self._stop_all()
            self._say("stopped")
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: object) -> None:
        self._stopping = True

    def _tend(self, kept: Kept) -> bool:
        """Start a child that is due, or see how one ended; True when all is done."""
        if kept.child is None:
            if time.monotonic() >= kept.due:
                if not self._watches(kept):
                    self._home.status(kept.role).unlink(missing_ok=True)
                _set_aside(self._home.log(kept.role))
                self._home.log(kept.role).touch(mode=0o600)
                kept.log_start = _size(self._home.log(kept.role))
                kept.child, kept.started = kept.start(), time.monotonic()
                self._say("running")
            return False
        code = kept.child.poll()
        if code is None:
            return False
        processes.kill_tree(kept.child)  # whatever it left behind
        kept.child = None
        if code == 0 and kept.role == "agent" and self._once:
            return True
        self._ended(kept, code)
        return False

    def _watches(self, kept: Kept) -> bool:
        return self._cluster and kept.role == "trainer"

    def _ended(self, kept: Kept, code: int) -> None:
        ran_s = time.monotonic() - kept.started
        killed = code < 0 or self._worker_was_killed(kept)
        error = None if killed else child.error_of(self._home, kept.role)
        waits = kept.role == "trainer" and isinstance(error, MENDABLE)
        if error is not None and not waits:
            raise error
        if not killed and not waits and code > 0:
            kept.crashes = kept.crashes + 1 if ran_s < SOON_S else 1
            if kept.crashes >= MAX_CRASHES:
                raise ProcessDied(
                    f"the {kept.role} ended {kept.crashes} times in a row with exit code {code}",
                    hint=f"see {self._home.log(kept.role)}",
                )
        kept.restarts += 1
        kept.due = time.monotonic() + kept.backoff.after(ran_s)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        child.log("child-ended", role=kept.role, how=how, ran_s=round(ran_s, 1))
        self._say("running")

    def _worker_was_killed(self, kept: Kept) -> bool:
        """Whether a torchrun ended because its worker died of a signal; it says so in its report."""
        if kept.role != "trainer" or self._cluster:
            return False
        try:
            with self._home.log(kept.role).open("rb") as file:
                file.seek(kept.log_start)
                return _KILLED.search(file.read(MAX_REPORT_BYTES)) is not None
        except OSError:
            return False

    def _stop_all(self) -> None:
        """Agent first, so that nothing is signed after the rest has gone."""
        alive = [(kept, kept.child) for kept in reversed(self._kept) if kept.child is not None]
        for _, each in alive:
            if each.poll() is None:
                each.terminate()
        asked = time.monotonic()
        while waits := [kept for kept, each in alive if each.poll() is None]:
            if time.monotonic() - asked > (CLUSTER_GRACE_S if any(map(self._watches, waits)) else GRACE_S):
                break
            time.sleep(POLL_S)
        for _, each in alive:
            processes.kill_tree(each)
        for kept in self._kept:
            kept.child = None

    def _say(self, phase: str) -> None:
        children = {
            kept.role: {"pid": kept.child.pid if kept.child is not None else None, "restarts": kept.restarts}
            for kept in self._kept
        }
        value = {"role": "supervisor", "pid": os.getpid(), "phase": phase, "children": children}
        write_status(self._home, "supervisor", {**value, "time": time.time()})


def usual_children(home: Home, *, once: bool) -> dict[Role, Start]:
    """Gate, trainer and agent of a home. Raises `SettingsError`."""
    given = settings.load(home)
    user = agent_user.prepare(home, given)
    root = home.root.absolute()

    def module(
        role: Role,
        *more: str,
        isolate: bool,
        only: Sequence[Rule] = (),
        user: User | None = None,
        env: Mapping[str, str] | None = None,
    ) -> processes.Child:
        return processes.spawn(
            role,
            [sys.executable, "-P", "-m", f"tapestry.node.{role}", "--home", str(root), *more],
            log_path=home.log(role),
            isolate_network=isolate,
            only=only,
            user=user,
            env=env,
        )

    def agent() -> processes.Child:
        airlock.prepare(home)
        more = ["--once"] if once else []
        only = airlock.agent_files(home, given.ledger.mirrors)
        # The machine's folder for temporary files is out of its reach, and libraries that come with torch
        # look for one when they are imported, in its replay worker too.
        env = {"TMPDIR": str(home.state)}
        return module("agent", *more, isolate=False, only=only, user=user, env=env)

    return {
        "gate": lambda: module("gate", isolate=True),
        "trainer": lambda: launcher.launch(root, given.training, home.log("trainer")),
        "agent": agent,
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _set_aside(log: Path) -> None:
    """Keep logs bounded: a large one becomes NAME.1 before its process starts again."""
    if _size(log) > MAX_LOG_BYTES:
        log.replace(log.with_name(log.name + ".1"))


def run_node(home: Path, once: bool = False) -> bool:
    """Run a node until it is told to stop, or with `once` until all its runs are finished.

    Returns:
        whether all runs were finished (always False without `once`).

    Raises:
        Busy: the node runs already.
        SettingsError: it is not set up, or has not joined.
        TapestryError: what one of its processes ended with.
    """
    at = Home(home)
    at.check()
    if not at.consortium.is_file():
        raise SettingsError(
            f"the node in {home} has not joined a consortium",
            hint="ask the core's operator for an invitation, then: tapestry node join",
        )
    launched_by = settings.load(at).training.launcher
    at.make_folders()
    with files.Lock(at.root):
        return Supervisor(at, once=once, cluster=launched_by != "local").run()
