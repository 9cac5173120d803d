"""The demo's child processes: the very commands a person would type, in terminals of their own."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from tapestry.cli import failures
from tapestry.errors import ProcessDied
from tapestry.host import processes

STOP_S: Final = 15.0
"""A child that was asked to stop has this long."""


class Children:
    """Core and nodes. They die with this process, whatever ends it."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, tuple[processes.Child, int]] = {}
        """By name, each with where its log began."""
        self._may_end: set[str] = set()
        self._unneeded: set[str] = set()

    def start(self, name: str, *arguments: str, needed: bool = True) -> None:
        """Start `tapestry ARGUMENTS`. With `--once` among them it may end by itself; one that is not needed
        may end in whatever way."""
        if "--once" in arguments:
            self._may_end.add(name)
        if not needed:
            self._unneeded.add(name)
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        began = log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-P", "-m", "tapestry.cli.main", *arguments]
        environment = {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1", failures.JSON_VARIABLE: "1"}
        child = processes.spawn(name, command, log_path=log, env=environment)
        self._children[name] = (child, began)

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raise the error of a child that has ended too early."""
        for name, (child, began) in self._children.items():
            code = child.poll()
            if code is None or name in self._unneeded or (code == 0 and name in self._may_end):
                continue
            what = f"signal {-code}" if code < 0 else f"exit code {code}"
            error = failures.from_stderr(self.log(name), began) if code > 0 else None
            if error is None:
                raise ProcessDied(
                    f"{name} ended with {what}",
                    hint=f"its log is {self.log(name)}; the same command goes on from where it was",
                )
            raise type(error)(f"{name}: {error.message}", hint=error.hint)

    def stop(self) -> None:
        """Ask all to end, and end those that do not; nothing they started is left."""
        before = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            for child, _ in self._children.values():
                if child.poll() is None:
                    with suppress(ProcessLookupError):
                        child.terminate()
            deadline = time.monotonic() + STOP_S
            for child, _ in self._children.values():
                with suppress(TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
            for child, _ in self._children.values():
                processes.kill_tree(child)
            self._children.clear()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
