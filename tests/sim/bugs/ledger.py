"""Defences of witnesses, of each node's own ledger, and of a core that is made anew from it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from tapestry.audit.heads import signed_checkpoint
from tapestry.audit.verify import Verifier
from tapestry.core import recover
from tapestry.core.repeat import Repeater
from tapestry.errors import Fork
from tapestry.node import agent
from tapestry.node.replica import Replica
from tapestry.node.session import Session
from tapestry.node.sync import Synchronizer
from tapestry.node.witness import Witness
from tapestry.protocol.messages import Contribution
from tapestry.protocol.views import RunView
from tapestry.rounds.inputs import Contribute
from tapestry.rounds.state import RunState
from tests.sim.bugs.kind import LOST_ANSWERS, Bug, Places

if TYPE_CHECKING:
    from tests.sim.world import World


def _attested_after_sending(world: World) -> Places:
    signed = Witness._signed

    def careless(self: Witness, *given: Any) -> bytes:
        saved, self._memory.set = self._memory.set, self._memory.note  # type: ignore[method-assign]
        try:
            return signed(self, *given)
        finally:
            self._memory.set = saved  # type: ignore[method-assign]

    return {(Witness, "_signed"): careless}


def _attested_unrepeated(world: World) -> Places:
    def believing(self: Synchronizer, job: Any, record: Any, plan: Any) -> str:
        self._library.state(record.after, plan, outer=True)
        return str(record.after)

    return {(Synchronizer, "_merge"): believing}


def _nodes_counted(world: World) -> Places:
    return {(RunState, "witnesses"): property(lambda self: frozenset(self.attested))}


def _opened_unwitnessed(world: World) -> Places:
    return {(RunState, "witnessed"): property(lambda self: True)}


def _ledger_not_kept(world: World) -> Places:
    return {(Replica, "keep"): lambda self: None}


def _roots_unchecked(world: World) -> Places:
    def lenient(self: Verifier, text: str) -> None:
        self._no_more_due("")
        signed_checkpoint(text, self.found.consortium, self.key_at)
        self.found.root = self.root(self.found.entries).hex()

    return {(Verifier, "_checkpoint"): lenient}


def _receipts_not_followed(world: World) -> Places:
    hand_in = Session.hand_in

    def careless(self: Session) -> None:
        replica = self._tools.replica
        saved, replica.keep = replica.keep, lambda: None  # type: ignore[method-assign]
        try:
            hand_in(self)
        finally:
            replica.keep = saved  # type: ignore[method-assign]

    return {(Session, "hand_in"): careless}


def _receipts_in_memory(world: World) -> Places:
    return {(Replica, "kept"): property(lambda self: self.size)}


def _shortest_recovered(world: World) -> Places:
    every = recover.recover

    def first(root: Any, replicas: Any, settings: Any, **more: Any) -> dict[str, int]:
        shortest = min(replicas, key=lambda each: each.ledger_bytes)
        return every(root, [shortest], settings, **more)

    return {(recover, "recover"): first}


def _lost_merge_not_repeated(world: World) -> Places:
    return {(Repeater, "repeat"): lambda self: 0}


def _finished_unkept(world: World) -> Places:
    def careless(self: Session) -> None:
        self._tools.memory.set(self.run, finished=True)

    return {(Session, "_finish"): careless, (agent, "KEEP_S"): inf}


def _heads_not_compared(world: World) -> Places:
    def lenient(self: Verifier, entry: Any, event: Any) -> Contribute:
        return Contribute.of(self._said(entry, event.contribution, Contribution), event.contribution)

    return {(Verifier, "_contribution"): lenient}


def _other_not_asked_for(world: World) -> Places:
    return {(Replica, "_other_history"): lambda self: None}


def _quiet_not_compared(world: World) -> Places:
    follow = Session.follow

    def careless(self: Session, told: RunView) -> None:
        self.view = None
        follow(self, told)

    return {(Session, "follow"): careless}


def _fork_forgotten(world: World) -> Places:
    follow = Session.follow

    def careless(self: Session, told: RunView) -> None:
        if told is self.view:
            self.view = None
        try:
            follow(self, told)
        except Fork:
            self._tools.replica.doubted = False
            raise

    return {(Session, "follow"): careless}


def _merges_not_repeated(world: World) -> Places:
    return {(Synchronizer, "_worth_repeating"): lambda self, view, plan: 0}


IN_LEDGER: Final = (
    Bug(
        name="attested-after-sending",
        breaks="what a witness signed is not on disk before it is sent",
        places=_attested_after_sending,
    ),
    Bug(
        name="attested-unrepeated",
        breaks="a node attests a merge that it has not repeated",
        places=_attested_unrepeated,
    ),
    Bug(
        name="nodes-counted",
        breaks="two nodes of one member are two witnesses",
        places=_nodes_counted,
        split=True,
    ),
    Bug(
        name="opened-unwitnessed",
        breaks="a round opens from a base that too few have attested",
        places=_opened_unwitnessed,
    ),
    Bug(
        name="ledger-not-kept",
        breaks="what a node has seen of the ledger is not on disk when it signs",
        places=_ledger_not_kept,
    ),
    Bug(
        name="roots-unchecked",
        breaks="a node takes entries that do not make the tree the core has signed",
        places=_roots_unchecked,
        lie="unsigned",
    ),
    Bug(
        name="receipts-not-followed",
        breaks="a node does not keep the ledger up to its receipts",
        places=_receipts_not_followed,
    ),
    Bug(
        name="receipts-in-memory",
        breaks="entries that are not on disk yet count as kept",
        faults=LOST_ANSWERS,
        seed=11,
        places=_receipts_in_memory,
    ),
    Bug(
        name="shortest-recovered",
        breaks="a core is recovered from the shortest copy",
        seed=1,
        places=_shortest_recovered,
        loses=True,
    ),
    Bug(
        name="lost-merge-not-repeated",
        breaks="a core that is recovered does not repeat a merge that only the lost one has done",
        seed=24,
        places=_lost_merge_not_repeated,
        loses=True,
    ),
    Bug(
        name="finished-unkept",
        breaks="a node that has finished has the end of its ledger in memory alone",
        seed=39,
        places=_finished_unkept,
        loses=True,
    ),
    Bug(
        name="heads-not-compared",
        breaks="a head in a contribution is not held against the ledger",
        places=_heads_not_compared,
        split=True,
        seed=1,
    ),
    Bug(
        name="other-not-asked-for",
        breaks="a node that is shown lines of another history does not ask for all of it",
        places=_other_not_asked_for,
        split=True,
        seed=1,
    ),
    Bug(
        name="quiet-not-compared",
        breaks="a core that has nothing new to say is not asked for its newest head",
        places=_quiet_not_compared,
        split=True,
        eight=True,
        seed=106,
    ),
    Bug(
        name="fork-forgotten",
        breaks="a node that was shown another history by a quiet core goes on when it looks again",
        places=_fork_forgotten,
        split=True,
        eight=True,
        seed=106,
    ),
    Bug(
        name="merges-not-repeated",
        breaks="a node takes every base as it is given",
        seed=1,
        places=_merges_not_repeated,
        lie="off_by_one",
    ),
)
