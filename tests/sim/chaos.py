"""What goes wrong now and then, wherever the processes are."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tapestry.cli import replicas
from tapestry.core import recover
from tapestry.core import settings as core_settings
from tapestry.storage.blobs import BlobStore
from tests.sim import observer as observed
from tests.sim.scheduler import Process

if TYPE_CHECKING:
    from tests.sim.core_process import CoreProcess
    from tests.sim.world import World

MAX_CRASHES: Final = 12


class Chaos:
    """Of one world."""

    def __init__(self, world: World) -> None:
        self.process = Process("chaos")
        self._world = world
        self._rng = world.rng

    def begin(self) -> None:
        faults = self._world.faults
        for rate, body in (
            (faults.cuts_s, self._cut),
            (faults.partition_s, self._part),
            (faults.jump_s, self._jump),
            (faults.full_s, self._fill),
            (faults.rot_s, self._rot),
        ):
            if rate:
                self._world.scheduler.spawn(
                    self.process, "chaos", functools.partial(self._now_and_then, rate, body)
                )

    def _now_and_then(self, rate_s: float, body: Callable[[], None]) -> None:
        while True:
            self._world.scheduler.wait(self._rng.expovariate(1 / rate_s))
            if not self._world.faulty:
                return
            body()

    def _any_node(self) -> int:
        return int(self._rng.random() * len(self._world.homes))

    def _cut(self) -> None:
        machines = self._world.machines.values()
        every = [p for m in machines for p in m.processes.values() if not p.dead and p.tasks]
        if every and self._world.crashes < MAX_CRASHES:
            self._world.crash(every[int(self._rng.random() * len(every))], "some time")

    def _part(self) -> None:
        world = self._world
        node = list(world.homes.values())[self._any_node()].name
        world.scheduler.say(f"{node} is cut off")
        world.network.apart.add(node)
        world.scheduler.wait(min(self._rng.random() * 8, world.faults.until_s - world.scheduler.now))
        world.network.apart.discard(node)

    def _jump(self) -> None:
        world = self._world
        by_s = (self._rng.random() - 0.5) * 2 * (30.0 if self._rng.random() < 0.7 else 900.0)
        world.ahead_s += by_s
        world.jumped_s += abs(by_s)
        world.scheduler.say(f"the core's clock is {world.ahead_s:.3f} s ahead")

    def _fill(self) -> None:
        world = self._world
        at = list(world.machines.values())[int(self._rng.random() * len(world.machines))]
        at.full = True
        world.scheduler.wait(min(self._rng.random() * 3, world.faults.until_s - world.scheduler.now))
        at.full = False

    def _rot(self) -> None:
        """A bit flips in something that a node can have again."""
        node = list(self._world.homes.values())[self._any_node()]
        own = node.core.observer.made_by(node.name)
        found = sorted(p for p in node.home.blobs.glob("??/*") if p.name not in own)
        if not found:
            return
        path = found[int(self._rng.random() * len(found))]
        data = bytearray(path.read_bytes())
        if data:
            data[int(self._rng.random() * len(data))] ^= 1 << int(self._rng.random() * 8)
            path.write_bytes(data)
            self._world.scheduler.say(f"blob {path.name[:12]} of {node.name} rots")

    # -- a core whose disk is lost ----------------------------------------------------------------

    def lose_core(self, core: CoreProcess, copied_s: float, lost_s: float) -> None:
        """The body of a task: some time the core's folder is copied; later its disk is lost, the copy put in
        its place and brought forward from what the nodes have."""
        world = self._world
        copy = world.root / f"{core.name}-copy"
        self._until_up(core, copied_s)
        _copy(world.root / core.name, copy)
        world.scheduler.say("the core is copied")
        self._until_up(core, lost_s)
        for node in world.homes.values():  # they are stopped while their folders are read
            at = world.machines[node.folder]
            agent = at.processes[node.member]
            if world.stops_nodes and not agent.dead and agent.tasks and not at.cutting:
                world.crash(agent, "a stop", power=False)
        world.crash(core.process, "a lost disk", power=True, lost=lambda: self._restore(core, copy))

    def _until_up(self, core: CoreProcess, seconds: float) -> None:
        self._world.scheduler.wait(seconds)
        while not core.up or self._world.machines[core.name].cutting:
            self._world.scheduler.wait(0.05)

    def _restore(self, core: CoreProcess, copy: Path) -> None:
        world, observer = self._world, core.observer
        observer.close()
        root = world.root / core.name
        shutil.rmtree(root)
        shutil.copytree(copy, root)
        acknowledged, given = set(), []
        kept = 0
        for node in observer.nodes.values():
            if (node.home.ledger / "verified.json").exists():
                given.append(replicas.of_node(node.home.root))
                kept = max(kept, observed.kept(node))
                acknowledged |= observer.acknowledged(node)
        if given:
            repeats = world.replay(BlobStore.open(root / "blobs"), core.name)
            found = recover.recover(root, given, core_settings.make(port=0), replay=repeats)
            world.scheduler.say(f"recovered: {found}")
            _part(root / "blobs")
        world.machines[core.name].disk.remember(root)
        observer.recovered(kept, acknowledged)


def _part(blobs: Path) -> None:
    """What was taken from nodes' folders lies on a disk of its own, not under a second name on theirs."""
    for path in sorted(blobs.rglob("*")):
        if path.is_file() and path.stat().st_nlink > 1:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    """A copy of a core's folder, of one moment."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("core.sqlite*", "*.tmp", "*.part"))
    held, copied = (sqlite3.connect(root / "core.sqlite") for root in (source, target))
    with contextlib.closing(held), contextlib.closing(copied):
        held.backup(copied)
