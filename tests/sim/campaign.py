"""Many seeds, in turns that go on where the last one stopped; what was run and found is one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tapestry import __version__
from tapestry.host import files
from tests.sim.split import drawn
from tests.sim.world import Failed, World

TOTALS: Final = "totals.json"
SAVED_EVERY_S: Final = 10.0


@dataclass
class Totals:
    """Of one label. Seeds from `first` up to `next` have been run."""

    first: int = 0
    next: int = 0
    merges: int = 0
    crashes: int = 0
    requests: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    """Each seed that failed, and with what."""

    @property
    def seeds(self) -> int:
        return self.next - self.first

    def line(self) -> str:
        """Seeds, failures, and how rare a failure must be that was not seen."""
        rate = self.seeds / self.cpu_s if self.cpu_s else 0.0
        told = f"{self.seeds} seeds ({self.first} to {self.next - 1}), {len(self.failed)} failed"
        if self.seeds and not self.failed:
            told += f": below {3 / self.seeds:.2g} of all with 95 % confidence (3/N)"
        return (
            f"{told}; {self.merges} merges, {self.crashes} crashes, {self.requests} requests, "
            f"{self.virtual_s / 3600:.1f} simulated hours, {rate:.1f} seeds per CPU second"
        )


def load(folder: Path, label: str) -> Totals | None:
    """What was run under a label; None where nothing was."""
    found = _read(folder).get(label)
    return None if found is None else Totals(**found)


def run(
    folder: Path,
    *,
    seeds: int,
    first: int | None = None,
    minutes: float | None = None,
    label: str = __version__,
    draw: Callable[[int], World] = drawn,
    tell: Callable[[str], None] = print,
) -> Totals:
    """Run so many more seeds, for so long at most.

    Args:
        folder: where the totals are.
        seeds: how many more.
        first: begin here with fresh totals; where None, go on.
        minutes: no new seed after this.
        label: of these totals, e.g. a release.
        draw: what a seed gives.
        tell: told of failures and, now and then, of the totals.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = load(folder, label)
    totals = known if known is not None and first is None else Totals(first=first or 0, next=first or 0)
    began = saved = time.monotonic()
    try:
        for seed in range(totals.next, totals.next + seeds):
            if minutes is not None and time.monotonic() - began > minutes * 60:
                break
            _one(totals, draw, seed, folder, tell)
            if time.monotonic() - saved > SAVED_EVERY_S:
                saved = time.monotonic()
                _save(folder, label, totals)
                tell(totals.line())
    finally:
        _save(folder, label, totals)
    return totals


def _one(
    totals: Totals, draw: Callable[[int], World], seed: int, folder: Path, tell: Callable[[str], None]
) -> None:
    began = time.process_time()
    try:
        report = draw(seed).run()
    except Failed as error:
        totals.failed[str(seed)] = f"{type(error.error).__name__}: {error.error}"[:400]
        (folder / f"seed-{seed}.txt").write_text("\n".join([str(error.error), *error.lines]) + "\n")
        tell(f"seed {seed} FAILED: {totals.failed[str(seed)]}")
    else:
        totals.merges += report.merges
        totals.crashes += report.crashes
        totals.requests += report.requests
        totals.virtual_s += report.virtual_s
    totals.cpu_s += time.process_time() - began
    totals.next = seed + 1


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / TOTALS).read_bytes())
    except FileNotFoundError:
        return {}
    return found


def _save(folder: Path, label: str, totals: Totals) -> None:
    every = {**_read(folder), label: asdict(totals)}
    files.write_atomic(folder / TOTALS, json.dumps(every, indent=1).encode() + b"\n")
