"""Two copies of a core that tell their nodes two histories, with two of five members on both sides.

The members who collude have a second copy of each of their nodes, with the same keys, at the other core:
they enrol, contribute and attest in both histories. With a quorum of witnesses above half of members and
colluders, at most one side has nodes that train beyond the first merge. What crosses between the sides
convicts the core.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, ClassVar, Final

from tapestry.audit.fork import ForkProof
from tapestry.core.runs import Runs
from tapestry.errors import TapestryError
from tapestry.identity.envelope import sign
from tapestry.protocol.plan import Plan, Retention, Rounds, Witness
from tests.sim import toy
from tests.sim.core_process import CoreProcess
from tests.sim.faults import Faults
from tests.sim.lies import signed_head
from tests.sim.net import SimClient, SimConnection
from tests.sim.node_process import Node
from tests.sim.observer import must
from tests.sim.setting import NODES, key_of
from tests.sim.world import Report, World

if TYPE_CHECKING:
    from tests.sim.bugs import Bug
    from tests.sim.bugs.kind import Places

COLLUDERS: Final = ("ada-1", "ada-2", "bob-1")
HERE: Final = ("cleo-1", "dan-1")
THERE: Final = ("eve-1",)
MORE: Final = ("fay-1", "gus-1", "hal-1")
SAFE: Final = 4
"""Witnesses of five members of whom two lie: above (5 + 2) / 2."""
ROUNDS: Final = 50
"""More than are had: a run that has ended asks its core nothing."""
SPLIT_S: Final = 40.0
PROVEN_S: Final = 150.0
RESTED_S: Final = 30.0
"""After the proof; more than a long poll, and than the pauses of who tries again."""
SPLIT_OF: Final = 25
"""One seed in so many has two histories."""


class Split(World):
    """As `World`; `core` and those who speak to it, and `core-b` and those who speak to that.

    Args:
        seed: of all chance in it.
        faults: drawn from the seed where None.
        quorum: of witnesses.
        bug: broken on purpose.
    """

    safe: ClassVar[int] = SAFE
    both: ClassVar[tuple[str, ...]] = COLLUDERS
    """Nodes that sign in both histories."""

    def __init__(
        self, seed: int, faults: Faults | None = None, *, quorum: int | None = None, bug: Bug | None = None
    ) -> None:
        self._quorum = self.safe if quorum is None else quorum
        here, there = self.sides(seed)
        self._honest = (*here, *there)
        self._moved: Node | None = None
        """The node that is shown both histories: it may be in the middle of a merge of the first."""
        super().__init__(seed, faults, hostile=False, lie="", loses=False, bug=bug)
        other = self.other = CoreProcess(self, "core-b")
        self.cores[other.name] = other
        shutil.copytree(self.root / "core", self.root / other.name)
        here = [Node(self, name, self.core) for name in (*self.both, *here)]
        there = [Node(self, name, other) for name in there]
        again = [Node(self, name, other, folder=f"{name}-b") for name in self.both]
        for node in again:
            shutil.copytree(self.root / node.name, node.home.root)
        self.colluders = frozenset(node for node in (*here, *again) if node.name in self.both)
        self.nodes = self.observer.nodes = {node.name: node for node in here}
        other.observer.nodes = {node.name: node for node in (*there, *again)}
        self.homes = {node.folder: node for node in (*here, *there, *again)}
        self.plan = self._plan()

    def sides(self, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Honest nodes at each core."""
        return HERE, THERE

    def _plan(self) -> Plan:
        drawn = self.plan
        return drawn.model_copy(
            update={
                "rounds": Rounds(
                    total=ROUNDS,
                    min_nodes=self.safe,
                    quorum=1 + int(self.rng.random() * 3),
                    deadline_s=drawn.rounds.deadline_s,
                ),
                "retention": Retention(),
                "witness": Witness(quorum=self._quorum),
            }
        )

    def own_places(self) -> Places:
        # The core takes in what shows that there is another history: it has signed both.
        return {(Runs, "_check_checkpoint"): lambda runs, said: None}

    def _head(self, node: Node, merges: int, state: str) -> None:
        if node is not self._moved:
            super()._head(node, merges, state)
            return
        known = {core.observer.states.get(merges) for core in self.cores.values()}
        must(state in known, f"{node.name} takes a state of neither history after merge {merges}")

    # -- the end ----------------------------------------------------------------------------------

    def _end(self) -> None:
        scheduler = self.scheduler
        until = max(self.faults.until_s, SPLIT_S)
        while scheduler.now < until or not (self._merged(self.core) and self._merged(self.other)):
            if scheduler.now > until + 300 + self.jumped_s:
                must(False, f"no side merges anything: {self.observer.standing()}")
            scheduler.wait(1.0)
        switched = self._moved = self._switched()
        scheduler.say(f"{switched.name} is shown the other history")
        switched.core = self.other if switched.core is self.core else self.core
        self.bases.shown_another(switched.name)
        asked = self._cross()
        self._wait_for(switched, "was shown both histories")
        if asked is not None:
            self._wait_for(asked, "has a message of the other history in its ledger")
        scheduler.wait(RESTED_S)
        agent = switched.agent
        must(agent is None or toy.RUN in agent._trouble, f"{switched.name} has a proof and goes on")
        for core in self.cores.values():
            core.observer.committed()
        scheduler.stop()

    @staticmethod
    def _merged(core: CoreProcess) -> bool:
        return core.up and len(core.observer.states) > 1

    def _switched(self) -> Node:
        honest = [self.homes[name] for name in self._honest]
        return honest[int(self.rng.random() * len(honest))]

    def _cross(self) -> Node | None:
        """A colluder hands in, at one core, what names a head of the other; returns who must find that."""
        at, of = (self.core, self.other) if self.rng.random() < 0.5 else (self.other, self.core)
        told = [n for n in self.homes.values() if n.core is at and n not in self.colluders]
        most = min(len(at.observer.entries), len(of.observer.entries))
        head = signed_head(self.consortium, of.observer.entries[:most])
        key = key_of("ada-1 node")
        client = SimClient(SimConnection(self.network, "ada-1", self.consortium, key, lambda: at), 4096)
        others = [t.said for t in at.observer.taken.values() if t.said.node != "ada-1"]
        first = others[0] if others else next(t.said for t in at.observer.taken.values())
        said = first.model_copy(
            update={"member": "ada", "node": "ada-1", "nonce": "f" * 32, "checkpoint": head}
        )
        self.scheduler.say(f"ada-1 brings a head of {of.name} to {at.name}")
        try:
            client.contribute(toy.RUN, sign(said, key).to_bytes())
        except TapestryError as error:
            self.scheduler.say(f"ada-1 was told {error.code}: {error.message}")
        digest = sign(said, key).digest
        recorded = any(digest.encode() in entry for entry in at.observer.entries)
        unswitched = [node for node in told if node.folder in at.observer.nodes]
        return unswitched[0] if recorded and unswitched else None

    def _wait_for(self, node: Node, what: str) -> None:
        """Until a proof that convicts the core lies on a node's disk."""
        until = self.scheduler.now + PROVEN_S
        while not (found := sorted(node.home.ledger.glob("fork-*.json"))):
            must(self.scheduler.now < until, f"{node.name} {what} and has no proof of it")
            self.scheduler.wait(1.0)
        proof = ForkProof.from_bytes(found[0].read_bytes())
        must(proof.check() == self.consortium, f"the proof of {node.name} convicts another core")


class SplitOfEight(Split):
    """Six honest members, three at each core or four at one of them."""

    admitted = (*NODES, *MORE)
    both = (*COLLUDERS, "bob-2")
    safe = 6
    """Above (8 + 2) / 2."""

    def sides(self, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        honest = (*HERE, *THERE, *MORE)
        return honest[: 3 + seed % 2], honest[3 + seed % 2 :]


def drawn(seed: int) -> World:
    """What a seed gives where nothing else is asked for."""
    return Split(seed) if seed % SPLIT_OF == SPLIT_OF - 1 else World(seed)


def simulate(seed: int) -> Report:
    """One run. Raises `Failed`."""
    return drawn(seed).run()
