"""One federation from its start to its end, with some faults or with none, and what the checks say of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.checks import Evidence, Verdict, check
from tests.chaos.faults import Chaos
from tests.chaos.scene import ChaosNode, Scene

STALLED_S = 90.0
"""With no merge for so long, something hangs."""
LAST_ROUNDS = 2
DEADLINE_S = 5.0
"""Of a round, so that the others go on without a node that is cut off for longer."""
STALENESS = 2
"""Rounds that such a node's update may come late."""
Result = dict[str, Any]


class _Meter:
    """Processor time and tokens of nodes between two moments in which they live."""

    def __init__(self, nodes: list[ChaosNode]) -> None:
        self._nodes = nodes
        self._cpu_s = sum(node.cpu_s() for node in nodes)
        self._began = time.monotonic()

    def stop(self) -> Result:
        return {
            "cpu_s": sum(node.cpu_s() for node in self._nodes) - self._cpu_s,
            "wall_s": time.monotonic() - self._began,
        }


def run(
    folder: Path,
    *,
    nodes: int,
    faults: int,
    seed: str,
    spared: int,
    calm_rounds: int = 0,
    deadline_s: float = DEADLINE_S,
    timeout_s: float = 600.0,
    tell: Callable[[str], None] = lambda _: None,
    **timing: float,
) -> Result:
    """Let a federation live until its `faults` are over, or for `calm_rounds` merges; then look at all of it.

    Raises:
        AssertionError: a process ended by itself, or nothing moves any more.
    """
    scene = Scene(folder, nodes=nodes, deadline_s=deadline_s, staleness=STALENESS)
    deadline = time.monotonic() + timeout_s
    chaos = Chaos(scene, faults, seed, spared=spared, **timing) if faults else None
    watched = scene.nodes[nodes - spared :]
    try:
        scene.begin()
        _until(scene, lambda: scene.rounds_done() >= 1 and _all_there(scene), deadline)
        tell("the first round is done")
        first, meter = scene.rounds_done(), _Meter(watched)
        if chaos is None:
            _until(scene, lambda: scene.rounds_done() >= first + calm_rounds, deadline)
        else:
            _until(scene, lambda: _step(chaos), deadline)
        measured = meter.stop() | {"rounds": scene.rounds_done() - first}
        tell(f"{measured['rounds']} rounds and {chaos.done if chaos else 0} faults")
        scene.end_after(LAST_ROUNDS)
        _until(scene, scene.tend, deadline)
    finally:
        if chaos is not None:
            chaos.end()
        scene.close()
    verdict = check(Evidence.of(scene.core.root, [node.home for node in scene.nodes]))
    measured |= {
        "nodes": spared,
        "trained": sum(job.train for node in watched for job in node.jobs),
        "merged": sum(verdict.merged_of[node.name] for node in watched),
    }
    return result(verdict, chaos, measured, scene.restarts, nodes)


def _all_there(scene: Scene) -> bool:
    """Whether each node has every process that a fault may hit: one that is not found is never hit."""
    return all(node.pid_of(role) is not None for node in scene.nodes for role in ("agent", "gate", "worker"))


def _step(chaos: Chaos) -> bool:
    chaos()
    return chaos.over


def _until(scene: Scene, done: Callable[[], bool], deadline: float) -> None:
    """Tend the scene until then. A core without a run's progress for a while is a finding."""
    merges, since = -1, time.monotonic()
    while not done():
        scene.tend()
        time.sleep(0.05)
        now = time.monotonic()
        if now - since > 5:
            if (seen := scene.rounds_done()) != merges:
                merges, since = seen, now
            assert now - since < STALLED_S and now < deadline, f"stuck: {scene.view()}\n{scene.tails()}"


def result(verdict: Verdict, chaos: Chaos | None, measured: Result, restarts: int, nodes: int) -> Result:
    return {
        "nodes": nodes,
        "faults": dict(sorted(chaos.hits.items())) if chaos else {},
        "restarts": restarts,
        "receipts": verdict.receipts,
        "entries": verdict.entries,
        "merges": verdict.merges,
        "contributions": verdict.contributions,
        "lost": verdict.lost,
        "twice": verdict.twice,
        "forks": verdict.forks,
        "other": verdict.other,
        "spared": measured,
    }
