"""A demo's comparison: each training a process of its own, as many at once as there are processors.

One thread each: the demo's model is so small that a second thread brings little, and on a machine with
other work the two wait for each other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tapestry.cli import failures
from tapestry.cli.output import note
from tapestry.errors import ProcessDied
from tapestry.host import files, processes

if TYPE_CHECKING:
    from tapestry.training.baselines import Request

POLL_S: Final = 0.1


def measure(request: Request, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Bits per byte by member, on its valid text: trained alone, and trained on all text in one place.

    Args:
        request: what it says of `what` is ignored.
        folder: requests, logs and all figures (which learning rates were tried, ...) are kept here.

    Raises:
        TapestryError: what a training ended with; the others are stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The longest first: it takes a batch of every member in each of its steps.
    waiting = deque([("pooled", request.model_copy(update={"what": ("pooled",)}))])
    for name, corpus in request.members.items():
        part = request.model_copy(update={"what": ("alone",), "members": {name: corpus}})
        waiting.append((f"alone-{name}", part))
    note("comparing: the same model on each member's text alone, and on all text in one place")
    alone: dict[str, float] = {}
    pooled: dict[str, float] = {}
    running: dict[str, processes.Child] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                job, part = waiting.popleft()
                running[job] = start(job, part, folder)
            for job in [job for job, child in running.items() if child.poll() is not None]:
                found = figures(job, running.pop(job), folder)
                for name, one in found.get("alone", {}).items():
                    alone[name] = one["bits_per_byte"][name]
                    note(f"  alone: {name} {alone[name]:.3f} bits per byte")
                if "pooled" in found:
                    pooled = found["pooled"]["bits_per_byte"]
                    said = ", ".join(f"{name} {bits:.3f}" for name, bits in pooled.items())
                    note(f"  pooled: {said} bits per byte")
            time.sleep(POLL_S)
    finally:
        for child in running.values():
            processes.kill_tree(child)
    return alone, pooled


def _log(job: str, folder: Path) -> Path:
    return folder / f"{job}.log"


def start(job: str, part: Request, folder: Path) -> processes.Child:
    """Begin one training; its request and its log are kept in the folder."""
    path = folder / f"{job}.json"
    files.write_atomic(path, part.model_dump_json(indent=1).encode(), durable=False)
    log = _log(job, folder)
    log.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "tapestry.training.baselines", str(path)]
    return processes.spawn(job, command, log_path=log, pipes=True)


def figures(job: str, child: processes.Child, folder: Path) -> dict[str, Any]:
    """What an ended training printed; it fits into the pipe, so nobody need read while it runs."""
    out, _ = child.communicate()
    if child.returncode != 0:
        error = failures.from_stderr(_log(job, folder))
        if error is not None:
            raise error
        hint = f"its log is {_log(job, folder)}; the same command tries again"
        raise ProcessDied(f"{job} ended with exit code {child.returncode}", hint=hint)
    files.write_atomic(folder / f"{job}.figures.json", out, durable=False)
    found: dict[str, Any] = json.loads(out)
    return found
