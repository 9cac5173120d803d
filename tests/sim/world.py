"""One run of a whole federation under faults, a function of its seed."""

from __future__ import annotations

import functools
import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tapestry.core.service import Core
from tapestry.errors import DiskFull, TapestryError
from tapestry.host import failpoints
from tapestry.node import agent as agent_module
from tapestry.node import child, setup
from tapestry.node import tools as tools_module
from tapestry.rounds import machine
from tapestry.storage.blobs import BlobStore
from tapestry.transport.patience import patiently
from tests.sim import toy
from tests.sim.bases import Bases
from tests.sim.chaos import MAX_CRASHES, Chaos
from tests.sim.core_process import CoreProcess
from tests.sim.disk import Disk, Hooks, hooked, no_space
from tests.sim.faults import Faults
from tests.sim.hostile import Mallory
from tests.sim.lies import LIES, tell
from tests.sim.net import Network
from tests.sim.node_process import Node
from tests.sim.scheduler import Crash, Process, Scheduler, Violation
from tests.sim.setting import MEMBERS, NODES, drawn_plan, lay_out, node_of
from tests.sim.shims import EPOCH_S, Chance, Memo, installed

if TYPE_CHECKING:
    from tests.sim.bugs import Bug
    from tests.sim.bugs.kind import Places

MEMORY: Final = Path("/dev/shm")
PATIENCE_S: Final = 300.0
"""Seconds of its own clock in which a run must end once nothing goes wrong any more."""
QUIET: Final = frozenset({"unlink", "mkdir", "ftruncate"})
"""Nothing happens at these: their order may follow that of a set."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run came to."""

    seed: int
    digest: str
    """Of everything that happened."""
    steps: int
    virtual_s: float
    merges: int
    crashes: int
    requests: int


class Failed(AssertionError):
    """A run in which something did not hold, with its last lines."""

    def __init__(self, seed: int, error: BaseException, lines: list[str]) -> None:
        self.seed, self.error, self.lines = seed, error, lines
        last = "\n".join(lines[-60:])
        super().__init__(f"seed {seed}: {type(error).__name__}: {error}\n{last}")


class Machine:
    """A computer with its disk and processes."""

    def __init__(self, root: Path) -> None:
        self.disk = Disk(root)
        self.processes: dict[str, Process] = {}
        self.bodies: dict[str, Callable[[Process], None]] = {}
        self.full = False
        self.cutting = False


WORDS_FIRST = 1 << 32
"""Seeds from here on: nodes commit before anybody's bytes move. All else of a seed is as without."""
REVEAL_S = 6.0


class World(Hooks):
    """Everything of one run.

    Args:
        seed: of all chance in it.
        faults: drawn from the seed where None.
        hostile: whether a member does not keep to the rules; drawn where None.
        lie: what the core lies about; drawn where None, "" for nothing.
        loses: whether the core's disk is lost in the middle; drawn where None.
        bug: broken on purpose.
    """

    admitted: ClassVar[tuple[str, ...]] = NODES
    """Who is in the consortium; fewer take part."""

    def __init__(
        self,
        seed: int,
        faults: Faults | None = None,
        *,
        hostile: bool | None = None,
        lie: str | None = None,
        loses: bool | None = None,
        bug: Bug | None = None,
    ) -> None:
        self.seed = seed
        self.scheduler = Scheduler(seed)
        rng = self.rng = self.scheduler.rng
        self.faults = faults if faults is not None else Faults.drawn(rng)
        where = tempfile.mkdtemp(prefix="tapestry-sim-", dir=MEMORY if MEMORY.is_dir() else None)
        self.root, self.scheduler.folder = Path(where), where
        lay_out(self.root, self.admitted)
        self.ahead_s = 0.0
        """The core's clock, against one that nobody sets."""
        self.jumped_s = 0.0
        self.crashes = 0
        self.network = Network(self)
        self.core = CoreProcess(self)
        self.cores = {"core": self.core}
        self.observer = self.core.observer
        self.bases = Bases(self)
        self.colluders: frozenset[Node] = frozenset()
        self.first_s = 0.0
        """The first round takes so long."""
        self.stops_nodes = True
        """While a core is recovered from their folders."""
        self.proofs = rng.random() < 0.2
        """Whether requests are signed, which takes a quarter of a run's time."""
        self.chunk_bytes = 100 if rng.random() < 0.25 else 4096
        """Of an upload's request; the smaller cuts every blob into several."""
        members = MEMBERS[: 2 + int(rng.random() ** 2 * 3)]
        names = [node_of(member) for member in members]
        if rng.random() < 0.2:
            names.append(node_of(members[0], 2))
        self.nodes = self.observer.nodes = {name: Node(self, name, self.core) for name in names}
        self.homes = dict(self.nodes)
        """By folder."""
        self._bug = bug
        self.mallory: Mallory | None = None
        if rng.random() < 0.15 if hostile is None else hostile:
            self.mallory = Mallory(self, MEMBERS[len(members)])
        if lie is None:
            lie = list(LIES)[int(rng.random() * len(LIES))] if rng.random() < 0.15 else ""
        self.lie = lie
        honest = [name for name in names if name != node_of(members[0], 2)]
        self.misled = honest[int(rng.random() * len(honest))] if lie and lie != "crooked" else ""
        """The node that the core lies to."""
        self.plan = drawn_plan(rng, len(members), len(names), lies=bool(self.misled))
        self.plan = tell(self, lie) if lie else self.plan
        if seed >= WORDS_FIRST:
            rounds = self.plan.rounds.model_copy(update={"reveal_s": REVEAL_S})
            self.plan = self.plan.model_copy(update={"rounds": rounds})
        if loses is None:
            loses = rng.random() < 0.12 and not lie and self.mallory is None
        self._loses = (rng.random() * 6, rng.random() * 12) if loses else None
        self.machines: dict[str, Machine] = {}
        self.chaos = Chaos(self)

    # -- what happens -----------------------------------------------------------------------------

    def run(self) -> Report:
        """To the end. Raises `Failed`."""
        scheduler = self.scheduler
        collects = gc.isenabled()
        gc.disable()  # a run makes little garbage, beside much that stays
        try:
            with self._installed():
                self._begin()
                with hooked(self):
                    scheduler.run()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Failed(self.seed, error, list(scheduler.trace.lines)) from error
        finally:
            for core in self.cores.values():
                core.shut()
                core.observer.close()
            shutil.rmtree(self.root, ignore_errors=True)
            if collects:
                gc.enable()
        scheduler.trace.add(f"end {scheduler.rng.random()}")
        return Report(
            seed=self.seed,
            digest=scheduler.trace.digest,
            steps=scheduler.steps,
            virtual_s=scheduler.now,
            merges=len(self.observer.states) - 1,
            crashes=self.crashes,
            requests=self.network.sent,
        )

    @contextmanager
    def _installed(self) -> Iterator[None]:
        chance = Chance(self.scheduler, lambda: EPOCH_S + self.scheduler.now)
        named: dict[tuple[Any, str], Any] = {
            **Memo().places(),
            **self.own_places(),
            **(self._bug.places(self) if self._bug is not None else {}),
            (failpoints, "reach"): lambda name: self.point(name),
            (child, "log"): self._log,
            (setup, "connect"): lambda home, pair=None: self.homes[home.root.name].connect(pair),
            (tools_module, "Replayer"): lambda root, **_: self.replay(BlobStore.open(root), root.parent.name),
            (agent_module, "patiently"): functools.partial(patiently, sleep=self.scheduler.wait),
        }
        with installed(chance.shims(), named):
            yield

    def _begin(self) -> None:
        for each in self.cores.values():
            with Core.open(self.root / each.name, clock=self.core_ms) as core:
                self.consortium = core.consortium.id
                core.runs.plan(self.plan)
                core.runs.apply(toy.RUN, machine.Start())
            each.observer.open()
            self._add(each.name, {each.name: each.boot})
        for folder, node in self.homes.items():
            self._add(folder, {node.member: node.run_agent, f"{node.member}'s": node.run_trainer})
        if self.mallory is not None:
            self._add(self.mallory.node, {"mallory": self.mallory.run})
        for machine_, name in [(m, n) for m in self.machines.values() for n in m.bodies]:
            self._boot(machine_, name)
        self.chaos.begin()
        if self._loses is not None:
            body = functools.partial(self.chaos.lose_core, self.core, *self._loses)
            self.scheduler.spawn(self.chaos.process, "loss", body)
        self.scheduler.spawn(self.chaos.process, "end", self._end)

    def _add(self, name: str, bodies: dict[str, Callable[[Process], None]]) -> None:
        made = self.machines[name] = Machine(self.root / name)
        made.bodies = bodies

    def _boot(self, at: Machine, name: str) -> None:
        process = at.processes[name] = Process(name)
        process.machine = at  # type: ignore[attr-defined]
        self.scheduler.spawn(process, "main", functools.partial(at.bodies[name], process))

    def _end(self) -> None:
        scheduler = self.scheduler
        while not self._is_over():
            if scheduler.now > self.faults.until_s + PATIENCE_S + self.jumped_s:
                raise Violation(f"the run stands still: {self.observer.standing()}")
            scheduler.wait(0.5 if scheduler.now < 60 else 20.0)
        self.observer.ended()
        scheduler.stop()

    def _is_over(self) -> bool:
        nodes = self.nodes.values()
        misled = self.misled if self.observer.forged or self.observer.dropped else None
        over = all(n.finished or n.ended is not None or n.name == misled for n in nodes)
        if self.lie == "crooked":
            return self.core.up and all(n.ended is not None for n in nodes)
        return self.core.up and over and self.observer.finished is not None

    def gave_up(self, node: Node, process: Process, error: TapestryError) -> None:
        """An agent ended with a typed error: its owner starts it again where that may help."""
        if isinstance(error, DiskFull) and self.faults.full_s:
            self.scheduler.wait(2.0)
            self.crash(process, "after a full disk", power=False)
            raise Crash
        node.ended = error
        node.core.observer.gave_up(node, error)
        self.scheduler.kill(process)

    def own_places(self) -> Places:
        """What is other in this world."""
        return self.network.liar.places() if self.network.liar is not None else {}

    # -- for the actors ---------------------------------------------------------------------------

    def core_ms(self) -> int:
        return round((EPOCH_S + self.scheduler.now + self.ahead_s) * 1000)

    def replay(self, store: BlobStore, folder: str) -> toy.ToyReplay:
        """What merges at a core or a node."""
        if folder in self.cores:
            return toy.ToyReplay(store, crooked=self.cores[folder].observer.crooked)
        return toy.ToyReplay(store, told=functools.partial(self.bases.repeated, folder))

    def training_s(self, round: int) -> float:
        if round == 1 and self.first_s:
            return self.first_s
        return 0.1 + self.rng.random() ** 3 * 5.0

    @property
    def faulty(self) -> bool:
        return self.scheduler.now < self.faults.until_s

    def chance(self, kind: str) -> bool:
        rate: float = getattr(self.faults, kind)
        return rate > 0 and self.faulty and self.rng.random() < rate

    def slow(self) -> bool:
        return self.rng.random() < 0.2

    def delay(self) -> float:
        return self.rng.random() ** 2 * self.faults.delay_s

    def later(self, in_s: float, body: Callable[[], None]) -> None:
        self.scheduler.spawn(self.chaos.process, "later", body, in_s=in_s)

    def _log(self, event: str, **fields: Any) -> None:
        self.scheduler.say(f"{event} " + " ".join(f"{k}={str(v)[:60]}" for k, v in fields.items()))
        at = self._machine()
        if event == "head" and at is not None:
            self._head(self.homes[at.disk.root.name], fields["merges"], fields["state"])

    def _head(self, node: Node, merges: int, state: str) -> None:
        """A node has taken a state for its own."""
        node.core.observer.head(merges, state)

    # -- what goes wrong --------------------------------------------------------------------------

    def point(self, what: str) -> None:
        """Somewhere that a process may die, or another go on."""
        self.before(what)

    def before(self, operation: str, *, writes: int = 0) -> int | None:
        task = self.scheduler.current
        if task is None:
            return None
        process = task.process
        if process.dead:
            raise Crash
        at: Machine | None = getattr(process, "machine", None)
        if at is None or operation in QUIET:
            return None
        drawn, faults = self.rng.random(), self.faults
        if drawn < faults.crash and self.faulty and self.crashes < MAX_CRASHES:
            self.crash(process, operation)
            if writes:
                return int(self.rng.random() * writes)
            raise Crash
        if writes and at.full:
            raise no_space()
        if drawn > 1 - faults.turns and self.faulty:
            self.scheduler.wait(self.delay() if drawn > 1 - faults.turns / 2 else 0.0)
        return None

    def synced(self, fd: int) -> None:
        at = self._machine()
        if at is not None:
            at.disk.synced(fd)

    def renamed(self) -> None:
        at = self._machine()
        if at is not None:
            for process in at.processes.values():
                process.version += 1

    def _machine(self) -> Machine | None:
        task = self.scheduler.current
        return getattr(task.process, "machine", None) if task is not None else None

    def crash(
        self, process: Process, why: str, *, power: bool | None = None, lost: Callable[[], None] | None = None
    ) -> None:
        """The process dies, or its machine; it comes back some time later. Where its disk is `lost`, that is
        called to put another in."""
        at: Machine = process.machine  # type: ignore[attr-defined]
        if power is None:
            power = self.rng.random() < self.faults.power
        names = [n for n, p in at.processes.items() if (power or p is process) and not p.dead]
        self.crashes += 1
        self.scheduler.say(f"{'POWER CUT' if power else 'KILLED'} {process.name} at {why}")
        dead = [at.processes[name] for name in names]
        for each in dead:
            self.scheduler.kill(each)
        at.cutting = at.cutting or power
        for name in names:
            if name in self.cores:
                self.cores[name].down()
        down_s = 0.05 + self.rng.random() ** 2 * 4
        self.scheduler.spawn(
            self.chaos.process,
            "restart",
            functools.partial(self._restart, at, names, dead, down_s, power, lost),
        )

    def _restart(
        self,
        at: Machine,
        names: list[str],
        dead: list[Process],
        down_s: float,
        power: bool,
        lost: Callable[[], None] | None,
    ) -> None:
        while any(process.tasks for process in dead):
            self.scheduler.wait(0.0)
        cores = [self.cores[name] for name in names if name in self.cores]
        for core in cores:
            core.shut()
        if lost is not None:
            self.scheduler.wait(0.2 if self.stops_nodes else 15.0)
            lost()
            at.cutting = False
        elif power:
            at.disk.lose(self.rng)
            at.cutting = False
            for core in cores:
                core.observer.power_was_cut()
        self.scheduler.wait(down_s)
        while at.cutting:
            self.scheduler.wait(0.01)
        for name in names:
            self._boot(at, name)
