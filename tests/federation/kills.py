"""Finds the processes of a federation and kills them, as the out-of-memory killer or a power cut would."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.federation.support import Federation

ROLES = {
    "core": "core serve",
    "supervisor": "node run",
    "gate": "tapestry.node.gate",
    "agent": "tapestry.node.agent",
    "trainer": "tapestry.training",
    "torchrun": "torch.distributed.run",
    "replay": "tapestry.replay",
}


def processes_of(root: Path) -> dict[str, list[int]]:
    """Process ids by role of everything whose command line names a folder below `root`."""
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(root) not in command or int(entry.name) == os.getpid():
            continue
        role = next(
            (
                role
                for role, mark in ROLES.items()
                if mark in command and not (role == "trainer" and ROLES["torchrun"] in command)
            ),
            None,
        )
        if role is not None:
            found[role].append(int(entry.name))
    return found


def phase_of(federation: Federation) -> str:
    """What goes on: the round as the core sees it and, in training, what the first trainer does."""
    current = federation.view().current
    if current is None:
        return "no round"
    if current.phase != "training":
        return current.phase
    if any(node.status is not None for node in current.nodes):
        return "some sent"
    try:
        path = federation.node(federation.names[0]) / "status" / "trainer.json"
        return str(json.loads(path.read_bytes())["phase"])
    except (OSError, ValueError, KeyError):
        return "starting"


@dataclass
class RandomKiller:
    """Kills a process of a random role at random instants, until `count` are dead."""

    federation: Federation
    count: int
    seed: int
    longest_s: float = 3.0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._next: float | None = None

    @property
    def done(self) -> int:
        return sum(self.hits.values())

    def __call__(self) -> None:
        if self._next is None:  # the first round shows that all are up
            if self.federation.view().head.merges:
                self._next = time.monotonic()
            return
        if self.done >= self.count or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._random.uniform(0.0, self.longest_s)
        alive = {role: pids for role, pids in processes_of(self.federation.root).items() if pids}
        if not alive:
            return
        role = self._random.choice(sorted(alive))
        phase = phase_of(self.federation)
        try:
            os.kill(self._random.choice(alive[role]), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.hits[role, phase] += 1

    def table(self) -> str:
        """Kills by role and phase."""
        phases = sorted({phase for _, phase in self.hits})
        lines = [f"{'killed':12}" + "".join(f"{p:>12}" for p in phases)]
        for role in ROLES:
            lines.append(f"{role:12}" + "".join(f"{self.hits[role, p]:>12}" for p in phases))
        return "\n".join(lines)
