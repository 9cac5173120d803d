"""What a watcher says: `status/launcher.json` for itself, `status/trainer.json` while the ranks say nothing.

The ranks write `status/trainer.json` themselves as soon as they run, with the process id of a `worker`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from tapestry.errors import TapestryError, by_code
from tapestry.host import files

MAX_STATUS_BYTES: Final = 256 << 10


class Report:
    """Of the home `home`."""

    def __init__(self, home: Path) -> None:
        folder = home / "status"
        folder.mkdir(parents=True, exist_ok=True)
        self._own = folder / "launcher.json"
        self._trainer = folder / "trainer.json"
        self._value: dict[str, Any] = {
            "role": "launcher",
            "pid": os.getpid(),
            "phase": "starting",
        }
        self._written: dict[str, Any] = {}

    @property
    def phase(self) -> str:
        """What was said last."""
        return str(self._value["phase"])

    def say(self, phase: str, **fields: Any) -> None:
        """Where the job stands; a field that is None is left out."""
        self._value |= {"phase": phase, **fields}
        value = {name: each for name, each in self._value.items() if each is not None}
        if value == self._written:
            return
        self._written = value
        _write(self._own, value)
        if self._ranks() is None and phase != "stopped":
            _write(self._trainer, {**value, "role": "trainer"})

    def ranks_started(self) -> bool:
        """Whether the first rank of the job has said anything."""
        return self._ranks() is not None

    def error(self) -> tuple[TapestryError, float] | None:
        """The typed error that the first rank ended with, and when it said so (Unix time)."""
        told = self._ranks() or {}
        error = told.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return None
        hint, said = error.get("hint"), told.get("time")
        kind = by_code(str(error.get("code")))
        at = float(said) if isinstance(said, int | float) else 0.0
        return kind(error["message"], hint=hint if isinstance(hint, str) else None), at

    def forget_ranks(self) -> None:
        """What the ranks of an earlier job said no longer counts."""
        for path in [self._trainer, *self._trainer.parent.glob("trainer-*.json")]:
            path.unlink(missing_ok=True)
        self._written = {}

    def fail(self, error: TapestryError) -> None:
        """Write how it ends where the supervisor looks, and as JSON on the last line of standard error."""
        described = {"code": error.code, "message": error.message, "hint": error.hint}
        told = self._ranks() or {**self._value, "role": "trainer"}
        _write(self._own, {**self._value, "phase": "failed", "error": described})
        _write(self._trainer, {**told, "phase": "failed", "error": described})
        sys.stderr.write(json.dumps({"error": described}) + "\n")
        sys.stderr.flush()

    def _ranks(self) -> dict[str, Any] | None:
        """What the ranks wrote; None where they have not, or this watcher or another did."""
        try:
            value = json.loads(files.read_limited(self._trainer, MAX_STATUS_BYTES))
        except (OSError, ValueError, TapestryError):
            return None
        return value if isinstance(value, dict) and "worker" in value else None


def log(event: str, **fields: Any) -> None:
    """One JSON line on standard error, which is the trainer's log at the node."""
    sys.stderr.write(json.dumps({"time": round(time.time(), 3), "event": event, **fields}) + "\n")
    sys.stderr.flush()


def _write(path: Path, value: dict[str, Any]) -> None:
    files.write_atomic(path, json.dumps({**value, "time": time.time()}).encode() + b"\n", durable=False)
