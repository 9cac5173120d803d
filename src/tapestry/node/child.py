"""What every child of a node has in common: status file, log lines, SIGTERM, and how it ends."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from os import getpid
from typing import Any, Final, NoReturn

from tapestry.errors import TapestryError, by_code
from tapestry.host import isolation
from tapestry.node.home import Home, Role, read_json, write_status

UNEXPECTED: Final = 1
"""Exit code of a child that met an exception outside the tree: it is started again."""

_asked: Final[list[int]] = []
"""The signal that asked this process to stop, once it has come."""


class Stopped(BaseException):
    """SIGTERM or SIGINT came. Not an `Exception`, so that nothing on the way mistakes it for a failure."""


class Status:
    """The process's file in status/, rewritten when something changed."""

    def __init__(self, home: Home, role: Role) -> None:
        self._home = home
        self._role: Role = role
        self._value: dict[str, Any] = {
            "role": role,
            "pid": getpid(),
            "level": isolation.measure(),
            "phase": "starting",
        }
        self._write()

    def __getitem__(self, name: str) -> Any:
        return self._value.get(name)

    def update(self, **fields: Any) -> None:
        """Set fields; None removes one. Nothing is written when nothing changes."""
        changed = {**self._value, **fields}
        changed = {name: value for name, value in changed.items() if value is not None}
        if changed != self._value:
            self._value = changed
            self._write()

    def fail(self, error: TapestryError) -> None:
        self.update(phase="failed", error=as_json(error))

    def _write(self) -> None:
        write_status(self._home, self._role, {**self._value, "time": time.time()})


def log(event: str, **fields: Any) -> None:
    """One JSON line on standard error, which is the child's log. No training data goes in here."""
    line = {"time": round(time.time(), 3), "event": event, **fields}
    sys.stderr.write(json.dumps(line, default=str) + "\n")
    sys.stderr.flush()


def as_json(error: TapestryError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def from_json(value: Any) -> TapestryError | None:
    """The typed error that `as_json` wrote; None for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("message"), str):
        return None
    hint = value.get("hint")
    return by_code(str(value.get("code")))(value["message"], hint=hint if isinstance(hint, str) else None)


def error_of(home: Home, role: Role) -> TapestryError | None:
    """The typed error a child ended with; its status file was removed before it started."""
    value = read_json(home.status(role))
    return None if value is None else from_json(value.get("error"))


def go_on() -> None:
    """For a child's main loop: raises `Stopped` where a signal came and what its handler raised was lost, as
    happens when the signal meets the finalizer of a file or an HTTP answer: Python drops what that raises."""
    if _asked:
        raise Stopped


def run(home: Home, role: Role, body: Callable[[Status], None]) -> NoReturn:
    """Run a child's work and exit: 0 when it is done or was asked to stop, else by the error tree.

    A typed error goes to status/<role>.json and, as `{"error": ...}`, to the last line of standard error.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    status = Status(home, role)
    try:
        body(status)
    except Stopped:
        status.update(phase="stopped")
        log("stopped")
    except TapestryError as error:
        status.fail(error)
        sys.stderr.write(json.dumps({"error": as_json(error)}) + "\n")
        sys.exit(error.exit_code)
    else:
        status.update(phase="finished")
    sys.exit(0)


def _stop(number: int, frame: object) -> None:
    _asked.append(number)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped
