"""What goes wrong in a run, how often: drawn from the seed, so that each run has another mixture."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Rates are per place where it may happen, unless said otherwise. All end after `until_s`."""

    until_s: float = 0.0
    turns: float = 0.0
    """Another task goes on, at a file operation or failpoint."""
    crash: float = 0.0
    """A process dies, at a file operation, a failpoint or a request."""
    power: float = 0.0
    """Part of the crashes that take the whole machine, and what it had not synced."""
    cuts_s: float = 0.0
    """Seconds between two crashes that come wherever the processes are."""
    drop: float = 0.0
    lost_answer: float = 0.0
    double: float = 0.0
    """A request comes again, some time later."""
    cut: float = 0.0
    """A body breaks off."""
    delay_s: float = 0.01
    partition_s: float = 0.0
    """Seconds between two partitions."""
    jump_s: float = 0.0
    """Seconds between two jumps of the core's clock."""
    full_s: float = 0.0
    """Seconds between two times that a disk is full."""
    rot_s: float = 0.0
    """Seconds between two blobs that a node's disk damages."""

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """Each kind is in about half of all runs."""
        found = {}
        for each in fields(cls):
            low, high = RANGES[each.name]
            value = low * (high / low) ** rng.random()
            found[each.name] = value if rng.random() < 0.5 or each.name in ALWAYS else each.default
        return cls(**found)

    def only(self, *kinds: str) -> Faults:
        """Without all others."""
        off = {each.name: each.default for each in fields(self) if each.name not in {*kinds, *ALWAYS}}
        return replace(self, **off)


ALWAYS: Final = ("until_s", "delay_s")
RANGES: Final[dict[str, tuple[float, float]]] = {
    "until_s": (4.0, 30.0),
    "turns": (0.01, 0.3),
    "crash": (0.0004, 0.006),
    "power": (0.2, 1.0),
    "cuts_s": (2.0, 20.0),
    "drop": (0.005, 0.1),
    "lost_answer": (0.005, 0.1),
    "double": (0.01, 0.2),
    "cut": (0.005, 0.1),
    "delay_s": (0.001, 0.5),
    "partition_s": (3.0, 20.0),
    "jump_s": (3.0, 20.0),
    "full_s": (4.0, 20.0),
    "rot_s": (2.0, 20.0),
}
