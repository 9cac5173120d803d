"""What a watcher must not forget: `launch/job.json` of the home, written before and after each step."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tapestry.errors import TapestryError
from tapestry.host import files

MAX_RECORD_BYTES = 1 << 16


class Record(BaseModel):
    """Frozen; a step makes another one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    job: str | None = None
    """The job whose end nobody has seen to."""
    digest: str | None = None
    """What it was submitted with."""
    submitting: bool = False
    """A submission was on its way; whether it came through, only the scheduler knows."""
    cancelled: bool = False
    """It was told to end and must not be taken up again."""
    running_since: float | None = None
    """Unix time at which it was first seen running, in seconds."""
    failures: int = 0
    """Jobs in a row that ended soon and by themselves."""


class RecordFile:
    """The file, and what it says."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.now = Record.model_validate_json(files.read_limited(path, MAX_RECORD_BYTES))
        except (OSError, ValidationError, TapestryError):
            self.now = Record()  # the scheduler is asked for jobs by name in any case

    def save(self, record: Record) -> None:
        """Durable before this returns. Raises `DiskFull`."""
        if record != self.now or not self._path.exists():
            files.write_atomic(self._path, record.model_dump_json().encode())
            self.now = record

    def change(self, **fields: object) -> None:
        self.save(self.now.model_copy(update=fields))
