"""Calls a rehearsal as a process of its own, and looks for what it may have left running."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Ended:
    code: int
    stdout: str
    stderr: str
    out: Path

    @property
    def report(self) -> dict[str, Any]:
        value = json.loads((self.out / "report.json").read_bytes())
        assert isinstance(value, dict)
        return value

    def chapter(self, key: str) -> dict[str, Any]:
        return next(each for each in self.report["chapters"] if each["key"] == key)


def start(folder: Path, *options: str, off: str = "-") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cli.rehearsal.played", off, "--out", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )


def rehearse(folder: Path, *options: str, off: str = "-", timeout_s: float = 900.0) -> Ended:
    process = start(folder, *options, off=off)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return Ended(process.returncode, stdout, stderr, folder)


def left_running(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in line:
                    found.append(line)
    return found
