"""Faults in a random order that a seed repeats: what is hit, for how long, and when the next one comes."""

from __future__ import annotations

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from tests.chaos.scene import ChaosNode, Scene
from tests.chaos.wire import NOWHERE, PLAIN, SLOW, TORN

LIKELY: Final = {
    "kill agent": 5,
    "kill gate": 3,
    "kill worker": 3,
    "kill core": 3,
    "stop agent": 3,
    "stop gate": 2,
    "stop worker": 2,
    "stop core": 2,
    "partition": 4,
    "partition of half": 1,
    "slow line": 3,
    "torn line": 3,
}
"""How often each kind comes, beside the others."""
LOST: Final = "core lost"
"""Its folder is deleted, and it is set up again from all nodes: never while something else is on."""
Undo = Callable[[], None]


class Chaos:
    """Call it again and again while the scene lives.

    Args:
        scene: nodes have begun.
        count: of faults.
        seed: of the choice.
        spared: nodes, the last ones, that no fault is aimed at.
        pause_s: between two faults, on average.
        hold_s: that a stop, a partition or a bad line lasts at most.
    """

    def __init__(
        self,
        scene: Scene,
        count: int,
        seed: str,
        *,
        spared: int = 0,
        pause_s: float = 1.5,
        hold_s: float = 3.0,
    ) -> None:
        self.hits: Counter[str] = Counter()
        self._scene = scene
        self._count = count
        self._random = random.Random(seed)
        self._nodes = scene.nodes[: len(scene.nodes) - spared]
        self._pause_s, self._hold_s = pause_s, hold_s
        self._next = time.monotonic()
        self._undo: list[tuple[float, int, Undo]] = []
        self._held: set[object] = set()
        self._loses_core_at = self._random.randrange(count // 3, count)
        """Once, and not at the very beginning."""

    @property
    def done(self) -> int:
        return sum(self.hits.values())

    @property
    def over(self) -> bool:
        return self.done >= self._count and not self._undo

    def __call__(self) -> None:
        now = time.monotonic()
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()
        if self.done >= self._count or now < self._next:
            return
        if self.done == self._loses_core_at and not self.hits[LOST]:
            if not self._undo:
                self._scene.lose_core()
                self._hit(LOST)
            return
        kind = self._random.choices(list(LIKELY), list(LIKELY.values()))[0]
        if self._apply(kind):
            self._hit(kind)

    def _hit(self, kind: str) -> None:
        self.hits[kind] += 1
        self._next = time.monotonic() + self._random.uniform(0, 2 * self._pause_s)

    def end(self) -> None:
        """Undo what is still on."""
        while self._undo:
            heapq.heappop(self._undo)[2]()

    def _apply(self, kind: str) -> bool:
        """Whether there was something to hit."""
        node = self._random.choice(self._nodes)
        verb, _, role = kind.partition(" ")
        if verb in ("kill", "stop"):
            pid = self._pid(node, role)
            return pid is not None and (self._kill(pid) if verb == "kill" else self._stop(pid))
        if kind == "partition of half":
            half = self._random.sample(self._nodes, max(1, len(self._nodes) // 2))
            hit = [self._line(each, kind) for each in half]
            return any(hit)
        return self._line(node, kind)

    def _pid(self, node: ChaosNode, role: str) -> int | None:
        if role != "core":
            return node.pid_of(role)
        core = self._scene.core.process
        return core.pid if core is not None and core.is_alive() else None

    def _kill(self, pid: int) -> bool:
        os.kill(pid, signal.SIGKILL)
        return True

    def _stop(self, pid: int) -> bool:
        if pid in self._held:
            return False
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            self._held.discard(pid)
            with suppress(ProcessLookupError):  # killed meanwhile, as SIGKILL does with a stopped one
                os.kill(pid, signal.SIGCONT)

        self._later(pid, go_on)
        return True

    def _line(self, node: ChaosNode, kind: str) -> bool:
        if node.name in self._held:
            return False
        link = {"slow line": SLOW, "torn line": TORN}.get(kind, NOWHERE)
        node.wire.become(link, self._random.randrange(1 << 30))

        def mend() -> None:
            self._held.discard(node.name)
            node.wire.become(PLAIN)

        self._later(node.name, mend)
        return True

    def _later(self, what: object, undo: Undo) -> None:
        self._held.add(what)
        due = time.monotonic() + self._random.uniform(0.2, 1.0) * self._hold_s
        heapq.heappush(self._undo, (due, id(undo), undo))
