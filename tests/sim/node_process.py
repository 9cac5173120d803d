"""A node: its real agent, whose waiting alone is other, and a trainer with its gate in a few lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tapestry.errors import DiskFull, HashMismatch, NotFound, TapestryError
from tapestry.host import failpoints, files
from tapestry.identity.keys import KeyPair
from tapestry.node import child, keys, setup
from tapestry.node.agent import Agent
from tapestry.node.home import Home, identity
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.canonical import sha256
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TextScore, TrainJob, TrainResult
from tests.sim import toy
from tests.sim.net import SimClient, SimConnection
from tests.sim.scheduler import Process
from tests.sim.setting import member_of

if TYPE_CHECKING:
    from tests.sim.core_process import CoreProcess
    from tests.sim.world import World

LOOK_S: Final = 5.0
"""How often agent and trainer look about even where nothing seems to have happened."""


class SimStatus:
    """As `child.Status`; nobody reads it."""

    def __getitem__(self, _: str) -> Any:
        return None

    def update(self, **_: Any) -> None:
        pass


class SimAgent(Agent):
    """The real one; it sleeps until something happens instead of looking a hundred times a second."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        super().__init__(node.home, SimStatus(), once=True)  # type: ignore[arg-type]

    def _wait(self) -> None:
        self._world.bases.follows(self._node, self._tools.replica.size)
        given = self._turns.given
        if given is not None and given.job.train:
            self._world.bases.trains(self._node, given.job.merges, given.job.state)
        for run in self._sessions.keys() - self._retry.keys():
            own = self._memory[run].contribution
            if own is not None and own.outcome == "receipted":
                self._world.bases.handed_in(self._node, self._tools.submitter.receipted_at(run))
        awaited = [s for run, s in self._sessions.items() if s.order is not None and run not in self._retry]
        scheduler = self._world.scheduler
        due = [*self._retry.values(), self._next_list]
        if any(not session.finished for session in self._sessions.values()):
            due.append(scheduler.now + LOOK_S)
        if self._turns.given is not None:
            due.append(scheduler.now + 1.0)
        scheduler.wait(
            max(0.01, min(due) - scheduler.now),
            until=lambda: self._news or any(session.stirred() for session in awaited),
        )


class Node:
    """What runs on one member's machine."""

    def __init__(self, world: World, name: str, core: CoreProcess, *, folder: str = "") -> None:
        self.name = name
        self.member = member_of(name)
        self.core = core
        """The one it speaks to."""
        self.folder = folder or name
        self.home = Home(world.root / self.folder)
        self.finished = False
        self.ended: TapestryError | None = None
        """What its agent gave up with for good."""
        self.agent: SimAgent | None = None
        self._world = world

    def connect(self, pair: KeyPair | None = None) -> SimClient:
        joined = setup.load_consortium(self.home)
        pair = pair or keys.load_pair(self.home)
        world = self._world
        return SimClient(self._connection(joined.consortium, pair), world.chunk_bytes)

    def _connection(self, consortium: str, pair: KeyPair) -> SimConnection:
        return SimConnection(self._world.network, self.name, consortium, pair, lambda: self.core)

    # -- agent ------------------------------------------------------------------------------------

    def run_agent(self, process: Process) -> None:
        """The body of its process."""
        if self.finished:
            return
        world = self._world
        try:
            agent = self.agent = SimAgent(world, self)
            try:
                agent.work()
            finally:
                agent.close()
        except TapestryError as error:
            world.scheduler.say(f"agent ends: {error.code}: {error.message}")
            if self.agent is not None:
                world.bases.follows(self, self.agent._tools.replica.size)
            world.gave_up(self, process, error)
        else:
            world.scheduler.say("finished")
            self.finished = True
            world.scheduler.kill(process)

    # -- trainer and gate -------------------------------------------------------------------------

    def run_trainer(self, process: Process) -> None:
        """The body of its process."""
        scheduler = self._world.scheduler
        store, path = BlobStore.open(self.home.blobs), str(self.home.job)
        done: bytes | None = None
        while True:
            try:
                data = files.read_limited(self.home.job, TrainJob.MAX_BYTES)
            except FileNotFoundError:
                data = None
            if data is None or data == done or not self._try(data, store):
                seen = identity(path)
                scheduler.wait(LOOK_S, until=lambda seen=seen: identity(path) != seen)
                continue
            done = data

    def _try(self, data: bytes, store: BlobStore) -> bool:
        try:
            return self._do(data, store)
        except DiskFull:
            self._world.scheduler.wait(1.0)
            return False

    def _do(self, data: bytes, store: BlobStore) -> bool:
        """One job; False where it could not be done."""
        scheduler = self._world.scheduler
        try:
            job = TrainJob.from_bytes(data)
        except TapestryError:
            return False  # torn by a power cut; the agent writes it anew
        target = self.home.passed(job.run, job.round)
        if _is_done(target, job):
            return True
        scheduler.wait(self._world.training_s(job.round))
        try:
            self._check_base(job, store)
        except (NotFound, HashMismatch) as error:
            told = {"error": child.as_json(error), "at": scheduler.now}
            files.write_atomic(self.home.status("trainer"), json.dumps(told).encode(), durable=False)
            scheduler.wait(1.0)
            return False
        delta = toy.make("delta", toy.trained(self.name, job.round, job.state)) if job.train else None
        self.core.observer.trained(self.name, delta.blobs if delta is not None else ())
        for blob in delta.blobs if delta is not None else ():
            store.put(blob)
        failpoints.reach("gate.blobs.linked")
        files.write_atomic(target, result_of(job, self.name, delta).to_bytes())
        failpoints.reach("gate.result.published")
        scheduler.say(f"trained round {job.round}")
        return True

    @staticmethod
    def _check_base(job: TrainJob, store: BlobStore) -> None:
        store.read(job.state, State.MAX_BYTES)
        for blob in Artifact.from_bytes(store.read(job.base)).shards:
            store.read(blob.sha256)


def _is_done(target: Any, job: TrainJob) -> bool:
    try:
        found = TrainResult.from_bytes(files.read_limited(target, TrainJob.MAX_BYTES))
    except (FileNotFoundError, TapestryError):
        return False
    return (found.plan, found.state, found.delta is not None) == (job.plan.digest, job.state, job.train)


def result_of(job: TrainJob, node: str, delta: toy.Made | None) -> TrainResult:
    steps = min(toy.steps_of(node, job.round), job.round_steps) if job.train else 0
    return TrainResult(
        run=job.run,
        plan=job.plan.digest,
        round=job.round,
        merges=job.merges,
        state=job.state,
        delta=delta.digest if delta is not None else None,
        tokens=steps * toy.TOKENS_A_STEP,
        steps=steps,
        data_manifest=sha256(node.encode()),
        loss=2.5 if job.train else None,
        score=TextScore(bits_per_byte=3.0, bytes=1000) if job.evaluate else None,
        environment={},
        train_s=0.5,
        evaluate_s=0.1,
    )
