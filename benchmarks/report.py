"""What every benchmark shares: repeated timing, and a dated report that names its hardware.

A report has tables (medians with smallest and largest in brackets), peers' figures beside them, and a
section on what they do not show.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Literal

RESULTS = Path(__file__).parent / "results"
DatabaseEngine = Literal["postgresql"]
BlobEngine = Literal["s3"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a program is asked for."""

    quick: bool = False
    """Small sizes and few repetitions, to see that it runs."""
    repeat: int | None = None
    """Repetitions of `transfer`, `replay`, `overlap`, `verify`, `curation` and `build_overhead`; builds of
    `killed_build`."""
    mib: int | None = None
    """Of an update in `transfer`."""
    nodes: int = 2
    """In `transfer`."""
    parameters: int | None = None
    """Of the model in `replay`."""
    contributions: int | None = None
    """In `replay`."""
    entries: int | None = None
    """Of the ledger in `verify`."""
    momentum: bool = False
    """In `replay`: a later merge, which reads the momentum too."""
    database: DatabaseEngine | None = None
    """In `round`: compare this one with SQLite."""
    blobs: BlobEngine | None = None
    """In `round`: compare this place with a folder."""
    corpora: Path | None = None
    """In `copies`, `curation` and `leakage`: text, a folder a language; made up where none is given."""


def seconds(
    work: Callable[[], object], *, repeat: int, before: Callable[[], object] | None = None
) -> list[float]:
    """Wall time of each of `repeat` calls of `work`; `before` runs untimed ahead of each."""
    times = []
    for _ in range(repeat):
        if before is not None:
            before()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times


def rates(amount: float, times: Sequence[float]) -> list[float]:
    """`amount` per second, for each time."""
    return [amount / t for t in times]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median with smallest and largest: `5.21 (4.90–5.40)`."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


@dataclass
class Hardware:
    """The machine, in words."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    torch: str
    python: str

    @classmethod
    def here(cls) -> Hardware:
        information = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        model = re.search(r"^model name\s*: (.+)$", information, re.M)
        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "none"
        return cls(
            cpu=model[1] if model else platform.processor() or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
            kernel=platform.release(),
            torch=torch,
            python=platform.python_version(),
        )

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.memory_gb:.0f} GB memory, Linux {self.kernel}, "
            f"torch {self.torch}, Python {self.python}"
        )

    @property
    def slug(self) -> str:
        name = re.sub(r"\((r|tm)\)|processor|cpu|@.*", " ", self.cpu.lower())
        return re.sub(r"[^a-z0-9]+", "-", f"{name} {self.cores}c").strip("-")


@dataclass
class Report:
    """A benchmark's result as Markdown.

    Args:
        what: name of the file, e.g. `merge`.
        title: the heading.
        not_shown: sentences on what the figures do not show.
    """

    what: str
    title: str
    not_shown: Sequence[str]
    hardware: Hardware = field(default_factory=Hardware.here)
    date: datetime = field(default_factory=lambda: datetime.now(UTC))
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Processes that wanted to run in the last minute before the start."""
    _parts: list[str] = field(default_factory=list)
    _notes: list[str] = field(default_factory=list)

    def section(self, heading: str, text: str = "") -> None:
        self._parts.append(f"## {heading}" + (f"\n\n{text}" if text else ""))

    def paragraph(self, text: str) -> None:
        self._parts.append(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        self._parts.append("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))

    def note(self, text: str) -> None:
        """A remark on the circumstances, at the top."""
        self._notes.append(text)

    def text(self) -> str:
        head = [
            f"# {self.title}",
            f"- date: {self.date:%Y-%m-%d %H:%M} UTC\n- hardware: {self.hardware}\n"
            f"- load before the start: {self.load:.2f}\n"
            "- figures: median, smallest–largest in brackets; GB = 10^9 bytes"
            + "".join(f"\n- note: {note}" for note in self._notes),
        ]
        end = "## What this does not show\n\n" + "\n".join(f"- {line}" for line in self.not_shown)
        return "\n\n".join([*head, *self._parts, end]) + "\n"

    def write(self, folder: Path = RESULTS) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.what}_{self.hardware.slug}_{self.date:%Y-%m-%d}.md"
        path.write_text(self.text(), encoding="utf-8")
        return path
