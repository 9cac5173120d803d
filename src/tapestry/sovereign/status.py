"""What a build does now: `status.json`, written by its process, read by `tapestry build status`."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from tapestry.errors import FormatError, TapestryError, by_code
from tapestry.host import files
from tapestry.protocol.message import Message, Part
from tapestry.sovereign.lineage import Count, Finite
from tapestry.sovereign.recipe import Recipe

Phase = Literal["waiting", "reading", "training", "writing", "stopped", "failed", "done"]
EVERY_S: Final = 0.25
RECENT: Final = 20
"""Steps that the pace is taken over."""


class Fault(Part):
    """Why it failed."""

    code: Annotated[str, Field(max_length=40)]
    message: Annotated[str, Field(max_length=4000)]
    hint: Annotated[str, Field(max_length=4000)] | None

    def error(self) -> TapestryError:
        return by_code(self.code)(self.message, hint=self.hint)


class Status(Message):
    """One moment of a build."""

    format: Literal["tapestry.build-status"] = "tapestry.build-status"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 1 << 16

    phase: Phase = "waiting"
    stage: Count = 0
    """From 1; 0 before the first."""
    kind: Annotated[str, Field(max_length=8)] = ""
    stages: Count = 0
    step: Count = 0
    steps: Count = 0
    loss: Finite | None = None
    """Mean of the last ten steps."""
    tokens: Count = 0
    """Of this stage, trained on so far."""
    seconds_left: Finite | None = None
    """Of this stage."""
    pid: Count = 0
    isolation: Annotated[str, Field(max_length=16)] = ""
    notes: Annotated[tuple[str, ...], Field(max_length=32)] = ()
    fault: Fault | None = None

    @classmethod
    def load(cls, path: Path) -> Status | None:
        """None where there is none, or one that cannot be read."""
        try:
            return cls.from_bytes(files.read_limited(path, cls.MAX_BYTES))
        except (OSError, FormatError):
            return None


class Teller:
    """Writes it, four times a second at most; only the rank that leads does.

    Args:
        path: of the file.
        lead: whether this process writes.
    """

    def __init__(self, path: Path, *, lead: bool, isolation: str = "") -> None:
        self._path, self._lead = path, lead
        self._status = Status(pid=os.getpid(), isolation=isolation)
        self._told = 0.0
        self._times: list[tuple[float, int]] = []

    def begin(self, recipe: Recipe) -> None:
        self.update(stages=len(recipe.stage))

    def update(self, *, durable: bool = False, **fields: Any) -> None:
        """Change some fields and write all now."""
        self._status = self._status.model_copy(update=fields)
        self._write(durable)

    def note(self, text: str) -> None:
        self.update(notes=(*self._status.notes, text)[-32:])

    def stage(self, number: int, kind: str) -> None:
        self._times = []
        self.update(
            phase="reading", stage=number, kind=kind, step=0, steps=0, loss=None, tokens=0, seconds_left=None
        )

    def step(self, step: int, steps: int, losses: list[float], tokens: int) -> None:
        """One step is done."""
        now = time.monotonic()
        self._times = [*self._times[-RECENT:], (now, step)]
        if now - self._told < EVERY_S and step < steps:
            return
        (then, first), left = self._times[0], None
        if step > first:
            left = (now - then) / (step - first) * (steps - step)
        last = losses[-10:]
        self._status = self._status.model_copy(
            update={
                "phase": "training", "step": step, "steps": steps, "tokens": tokens, "seconds_left": left,
                "loss": math.fsum(last) / len(last) if last else None,
            }
        )  # fmt: skip
        self._write(durable=False)

    def fail(self, error: TapestryError) -> None:
        fault = Fault(
            code=error.code, message=error.message[:4000], hint=error.hint[:4000] if error.hint else None
        )
        self.update(phase="failed", fault=fault, seconds_left=None)

    def _write(self, durable: bool) -> None:
        self._told = time.monotonic()
        if self._lead:
            files.write_atomic(self._path, self._status.to_bytes(), durable=durable)
