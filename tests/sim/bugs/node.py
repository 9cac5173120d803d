"""Defences of a node."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from tapestry.audit import verify
from tapestry.errors import MergeMismatch, TapestryError
from tapestry.identity.envelope import Envelope
from tapestry.node import people
from tapestry.node.agent import Agent
from tapestry.node.memory import Memory
from tapestry.node.people import Holder, People
from tapestry.node.replica import Replica
from tapestry.node.submit import Submitter
from tapestry.node.sync import Library, Synchronizer
from tapestry.protocol.messages import Contribution
from tapestry.rounds.events import RoundClosed
from tapestry.rounds.records import check_merged
from tests.sim.bugs.kind import LOSSES, LOST_ANSWERS, ROT, Bug, Places

if TYPE_CHECKING:
    from tests.sim.world import World


def _memory_after_sending(world: World) -> Places:
    sign = Submitter.sign

    def careless(self: Submitter, result: Any) -> None:
        saved, self._memory.set = self._memory.set, self._memory.note  # type: ignore[method-assign]
        try:
            sign(self, result)
        finally:
            self._memory.set = saved  # type: ignore[method-assign]

    return {(Submitter, "sign"): careless}


def _memory_never_saved(world: World) -> Places:
    return {(Memory, "set"): Memory.note}


def _signed_each_time(world: World) -> Places:
    deliver = Submitter._deliver

    def anew(self: Submitter, run: str, own: Any) -> bytes:
        said = own.said.model_copy(update={"nonce": world.rng.randbytes(16).hex()})
        return deliver(self, run, own.model_copy(update={"envelope": self._sign(said).decode("ascii")}))

    def believed(self: Submitter, run: str, own: Any, receipt: bytes) -> None:
        pass

    return {(Submitter, "_deliver"): anew, (Submitter, "_keep_receipt"): believed}


def _result_not_compared(world: World) -> Places:
    repeat, merge = Synchronizer._repeat, Synchronizer._merge

    def believing(self: Synchronizer, at: Any, record: Any, newest: Any) -> Any:
        self._merge = lambda job, one, plan: (merge(self, job, one, plan), one.after)[1]  # type: ignore
        return repeat(self, at, record, newest)

    return {(Synchronizer, "_repeat"): believing}


def _any_merge(world: World) -> Places:
    """What a round merges is not held against the rules in the ledger either."""
    says = verify._says

    def lenient(entry: Any, event: Any) -> bool:
        return isinstance(event, RoundClosed) or says(entry, event)

    return {(verify, "_says"): lenient}


NOT_COMPARED: Final[Places] = {(Replica, "merged"): lambda self, run, at: None}
"""A record is also held against the node's own ledger; off, where the check before it is to be seen."""


def _weights_not_checked(world: World) -> Places:
    def lenient(record: Any, plan: Any, said: Any, earlier: Any) -> None:
        with contextlib.suppress(MergeMismatch):
            check_merged(record, plan, said, earlier)

    return {(people, "check_merged"): lenient, **_any_merge(world), **NOT_COMPARED}


def _signatures_not_verified(world: World) -> Places:
    def trusting(self: People, envelope: Envelope) -> Any:
        said = envelope.unverified(Contribution)
        return said, Holder(member=said.member, node=said.node, public_key="0" * 64)

    return {(People, "verify"): trusting, **_any_merge(world), **NOT_COMPARED}


def _deltas_not_bound(world: World) -> Places:
    def lenient(record: Any, plan: Any, said: Any, earlier: Any) -> None:
        bound = [
            one.model_copy(update={"delta": merged.delta})
            for merged, one in zip(record.merged, said, strict=True)
        ]
        check_merged(record, plan, bound, earlier)

    return {(people, "check_merged"): lenient, **_any_merge(world), **NOT_COMPARED}


def _fetched_once(world: World) -> Places:
    """A blob that is lost after it was fetched is not fetched again."""

    def merge(self: Synchronizer, job: Any, record: Any, plan: Any) -> str:
        self._library.deltas([each.delta for each in record.merged], plan, record.fragment)
        return self._replayer.merge(job).state

    return {(Synchronizer, "_merge"): merge, (Library, "mend"): lambda self, sha, plan: None}


def _due_forgotten(world: World) -> Places:
    take = Agent._take_news

    def forgetful(self: Agent) -> None:
        away = {run for run, news in self._news if isinstance(news, TapestryError)}
        for run in [r for r, due in self._retry.items() if due <= world.scheduler.now and r in away]:
            del self._retry[run]
        take(self)

    return {(Agent, "_take_news"): forgetful}


AT_NODE: Final = (
    Bug(
        name="memory-after-sending",
        breaks="what was signed is not on disk before it is sent",
        faults=LOSSES,
        seed=24,
        places=_memory_after_sending,
    ),
    Bug(name="memory-never-saved", breaks="a node's memory is never written", places=_memory_never_saved),
    Bug(
        name="signed-each-time",
        breaks="each try to hand in is signed with a nonce of its own",
        seed=1,
        places=_signed_each_time,
    ),
    Bug(
        name="result-not-compared",
        breaks="a node does not compare its merge with the core's",
        places=_result_not_compared,
        lie="off_by_one",
    ),
    Bug(
        name="weights-not-checked",
        breaks="a node does not compute the weights itself",
        seed=5,
        places=_weights_not_checked,
        lie="other_weights",
    ),
    Bug(
        name="signatures-not-verified",
        breaks="a node takes contributions for whoever's they say",
        places=_signatures_not_verified,
        lie="made_up",
    ),
    Bug(
        name="deltas-not-bound",
        breaks="a record may name another delta than was signed",
        places=_deltas_not_bound,
        lie="other_bytes",
    ),
    Bug(
        name="due-forgotten",
        breaks="what is due to be tried again is forgotten when the core is just away",
        faults=LOST_ANSWERS,
        seed=1483,
        places=_due_forgotten,
    ),
    Bug(name="fetched-once", breaks="a lost blob is not fetched again", faults=ROT, places=_fetched_once),
)
