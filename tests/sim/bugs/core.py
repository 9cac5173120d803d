"""Defences of the core and of the round machine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from tapestry.core import coordinator, journal, retention, runs
from tapestry.core.coordinator import Coordinator
from tapestry.core.journal import Decision, Journal
from tapestry.core.runs import Runs
from tapestry.errors import NotFound
from tapestry.governance.effects import permit
from tapestry.identity.envelope import sign
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Contribution, Receipt
from tapestry.replay.job import MergeJob
from tapestry.rounds import events as ev
from tapestry.rounds import machine, taking
from tapestry.rounds.state import Round, RunState
from tapestry.rounds.weights import merge_weights
from tapestry.storage import events as log
from tapestry.storage.database import snapshots
from tests.sim.bugs.kind import KILLS, LOST_ANSWERS, POWER, Bug, Places

if TYPE_CHECKING:
    from tests.sim.scheduler import Task
    from tests.sim.world import World


def _receipt_before_commit(world: World) -> Places:
    contribute = Runs.contribute

    def early(self: Runs, run: str, envelope: Any, by: Any) -> Any:
        said = self._opened(envelope, Contribution, run, by)
        if self._receipt(said, envelope.digest) is not None or not self.store.has(said.delta):
            return contribute(self, run, envelope, by)
        world.later(1.0, lambda: contribute(self, run, envelope, by))
        receipt = Receipt(
            consortium=self.consortium.id,
            run=run,
            round=said.round,
            fragment=0,
            node=said.node,
            contribution=envelope.digest,
            sequence=self.standing(run).sequence + 1,
            received_at=time_text(self.journal.now_ms()),
            decided_by=time_text(self.journal.now_ms()),
        )
        return sign(receipt, self.consortium.core_key)

    return {(Runs, "contribute"): early}


def _snapshot_apart(world: World) -> Places:
    append = log.append

    def without(connection: Any, records: Any, state: bytes) -> None:
        row = log.snapshot(connection, records[-1].scope)
        append(connection, records, state)
        if row is not None:
            values = {"sequence": row.sequence, "state": row.state}
            connection.execute(snapshots.update().where(snapshots.c.scope == row.scope).values(values))

    apply = Journal.apply

    def apart(self: Journal, scope: Any, decide: Any) -> Any:
        before = self.read(scope)
        after = apply(self, scope, decide)
        if before is None or after.sequence > before.sequence:
            world.point("between events and snapshot")
            values = {"sequence": after.sequence, "state": scope.encode(after.state)}
            with self._database.transaction() as connection:
                connection.execute(snapshots.update().where(snapshots.c.scope == scope.name).values(values))
        return after

    return {(log, "append"): without, (Journal, "apply"): apart}


def _repeated_counted(world: World) -> Places:
    """A repeated envelope is neither looked for in the log nor in the state."""
    receipt, take = Runs._receipt, taking.contribute
    asked: set[Task | None] = set()

    def blind(self: Runs, contribution: Any, digest: str) -> Any:
        if world.scheduler.current not in asked:
            asked.add(world.scheduler.current)
            return None
        return receipt(self, contribution, digest)

    def forgetful(state: RunState, given: Any, now_ms: int) -> Any:
        rounds = tuple(
            r.model_copy(update={"submissions": {n: s for n, s in r.submissions.items() if n != given.node}})
            for r in state.rounds
        )
        return take(state.model_copy(update={"rounds": rounds}), given, now_ms)

    return {(Runs, "_receipt"): blind, (machine, "contribute"): forgetful}


def _screening_passed_over(world: World) -> Places:
    screened = machine._screened

    def good(state: RunState, given: Any) -> Any:
        return screened(state, dataclasses.replace(given, reason=None))

    return {(machine, "_screened"): good}


def _any_base(world: World) -> Places:
    take = taking.contribute

    def lenient(state: RunState, given: Any, now_ms: int) -> Any:
        at = state.find(given.round, given.fragment)
        return take(state, given if at is None else dataclasses.replace(given, state=at.state), now_ms)

    return {(machine, "contribute"): lenient}


def _any_tokens(world: World) -> Places:
    take = taking.contribute

    def lenient(state: RunState, given: Any, now_ms: int) -> Any:
        events = take(state, dataclasses.replace(given, tokens=1, steps=1), now_ms)
        fields = {"tokens": given.tokens, "steps": given.steps}
        return tuple(e.model_copy(update=fields) if hasattr(e, "tokens") else e for e in events)

    return {(machine, "contribute"): lenient}


def _any_name(world: World) -> Places:
    def trusting(self: Runs, envelope: Any, kind: Any, run: str, by: Any, roles: Any = None) -> Any:
        return envelope.unverified(kind)

    def permitted(self: Runs, moment: Any, state: RunState, given: Any, signed: Any) -> None:
        permit(self.journal.assembly(moment), state, given, moment.at)

    return {(Runs, "_opened"): trusting, (Runs, "_permit"): permitted}


def _deadline_by_another_clock(world: World) -> Places:
    settle = machine._settle

    def ahead(state: RunState, now_ms: int) -> Any:
        return settle(state, now_ms + 3_600_000)

    return {(machine, "_settle"): ahead}


def _restart_forgets(world: World) -> Places:
    def forgetful(data: bytes) -> RunState:
        state = RunState.from_bytes(data)
        rounds = tuple(r.model_copy(update={"submissions": {}}) if r.open else r for r in state.rounds)
        return state.model_copy(update={"rounds": rounds})

    scope = journal.run_scope
    return {(runs, "run_scope"): lambda run: dataclasses.replace(scope(run), decode=forgetful)}


def _events_swapped(world: World) -> Places:
    step = machine.step

    def swapped(state: RunState, given: Any, now_ms: int) -> Any:
        found = step(state, given, now_ms)
        return dataclasses.replace(found, events=found.events[::-1])

    def apply(self: Runs, run: str, given: Any) -> Any:
        def decide(moment: Any, standing: Any) -> Any:
            if standing is None:
                raise NotFound(run)
            found = swapped(standing.state, given, moment.now_ms)
            return Decision(state=found.state, events=found.events, refusal=found.refusal)

        return self.journal.apply(scope(run), decide)

    scope = journal.run_scope
    return {(Runs, "apply"): apply}


def _closed_while_screening(world: World) -> Places:
    close = machine._go_on

    def hasty(state: RunState, at: Round, now_ms: int) -> Any:
        received = {s.node for s in at.with_status("received")}
        left = {n: s for n, s in at.submissions.items() if n not in received}
        nodes = tuple(n for n in at.nodes if n not in received)
        return close(state, at.model_copy(update={"submissions": left, "nodes": nodes}), now_ms)

    return {(machine, "_go_on"): hasty}


def _no_quorum(world: World) -> Places:
    close = machine._go_on

    def any_number(state: RunState, at: Round, now_ms: int) -> Any:
        rounds = state.plan.rounds.model_copy(update={"quorum": 1})
        plan = state.plan.model_copy(update={"rounds": rounds})
        return close(state.model_copy(update={"plan": plan}), at, now_ms)

    return {(machine, "_go_on"): any_number}


def _own_weights(world: World) -> Places:
    def equal(shares: Any, **rules: Any) -> Any:
        return merge_weights(shares, **{**rules, "weighting": "equal"})

    return {(machine, "merge_weights"): equal}


def _lateness_forgiven(world: World) -> Places:
    def in_time(shares: Any, **rules: Any) -> Any:
        return merge_weights([dataclasses.replace(share, lag=0) for share in shares], **rules)

    return {(machine, "merge_weights"): in_time}


def _too_late(world: World) -> Places:
    enters = taking._enters

    def patient(state: RunState, trained: Round, what: str) -> Round:
        rounds = state.plan.rounds.model_copy(update={"staleness": 64})
        plan = state.plan.model_copy(update={"rounds": rounds})
        return enters(state.model_copy(update={"plan": plan}), trained, what)

    return {(taking, "_enters"): patient}


def _into_a_closed_round(world: World) -> Places:
    def open_(state: RunState, trained: Round, what: str) -> Round:
        return trained.model_copy(update={"phase": "training"})

    return {(taking, "_enters"): open_}


def _counted_in_two_rounds(world: World) -> Places:
    """What was sent in time is not recognised when it comes again late."""
    receipt = Runs._receipt

    def one_round(self: RunState, node: str, trained: Round) -> Any:
        return None if trained.phase == "committed" else trained.submissions.get(node)

    def of_this_round(self: Runs, contribution: Any, digest: str) -> Any:
        state = self.standing(contribution.run).state
        at = state.find(contribution.round, contribution.fragment)
        if at is None or at.phase != "committed":
            return receipt(self, contribution, digest)
        return None

    return {(RunState, "submission"): one_round, (Runs, "_receipt"): of_this_round}


def _merge_not_durable(world: World) -> Places:
    def of(plan: Any, **given: Any) -> MergeJob:
        return MergeJob.of(plan, **{**given, "durable": False})

    class Volatile(MergeJob):
        pass

    Volatile.of = staticmethod(of)  # type: ignore[method-assign, assignment]
    return {(coordinator, "MergeJob"): Volatile}


def _merged_twice(world: World) -> Places:
    """A merge that was done is recorded whether or not its round still waits for it."""
    merge = Coordinator._merge

    def again(self: Coordinator, state: RunState, at: Round) -> None:
        merge(self, state, at)
        merge(self, state, at)

    def unchecked(state: RunState, given: Any) -> Any:
        return (
            ev.RoundCommitted(
                round=given.round,
                fragment=given.fragment,
                merges=state.merges + 1,
                state=given.state,
                base=given.base,
                outer=given.outer,
            ),
        )

    return {(Coordinator, "_merge"): again, (machine, "_merge_done"): unchecked}


def _erased_too_early(world: World) -> Places:
    return {(retention, "last_erased"): lambda state: state.last_round}


def _arrival_order(world: World) -> Places:
    close = machine._go_on

    def by_arrival(state: RunState, at: Round, now_ms: int) -> Any:
        return tuple(
            event.model_copy(update={"merged": event.merged[::-1]})
            if isinstance(event, ev.RoundClosed)
            else event
            for event in close(state, at, now_ms)
        )

    return {(machine, "_go_on"): by_arrival}


IN_CORE: Final = (
    Bug(
        name="receipt-before-commit",
        breaks="a receipt is given before its event is committed",
        places=_receipt_before_commit,
    ),
    Bug(
        name="snapshot-apart",
        breaks="events and the state after them are two transactions",
        faults=KILLS,
        seed=0,
        places=_snapshot_apart,
    ),
    Bug(
        name="repeated-counted",
        breaks="a contribution that comes again is not recognised",
        seed=15,
        places=_repeated_counted,
    ),
    Bug(
        name="counted-in-two-rounds",
        breaks="one that comes again late is not recognised",
        seed=22,
        places=_counted_in_two_rounds,
    ),
    Bug(
        name="screening-passed-over",
        breaks="what screening refuses is accepted",
        seed=7,
        places=_screening_passed_over,
        hostile=True,
    ),
    Bug(
        name="any-base",
        breaks="the state trained from is not compared",
        seed=0,
        places=_any_base,
        hostile=True,
    ),
    Bug(
        name="any-tokens",
        breaks="claimed tokens are not held to the plan",
        seed=0,
        places=_any_tokens,
        hostile=True,
    ),
    Bug(
        name="any-name",
        breaks="signatures are not verified at the core",
        seed=3,
        places=_any_name,
        hostile=True,
    ),
    Bug(
        name="deadline-by-another-clock",
        breaks="a clock that is an hour ahead decides the deadline",
        seed=14,
        places=_deadline_by_another_clock,
    ),
    Bug(
        name="restart-forgets",
        breaks="a restarted core forgets the open round",
        faults=KILLS,
        seed=2,
        places=_restart_forgets,
    ),
    Bug(name="events-swapped", breaks="events of one step are recorded backwards", places=_events_swapped),
    Bug(
        name="closed-while-screening",
        breaks="a round closes while something received is still looked at",
        seed=1,
        places=_closed_while_screening,
    ),
    Bug(name="no-quorum", breaks="one contribution is enough", seed=15, places=_no_quorum),
    Bug(name="own-weights", breaks="weights do not follow the plan", places=_own_weights),
    Bug(
        name="lateness-forgiven",
        breaks="a late contribution weighs as one in time",
        seed=11,
        places=_lateness_forgiven,
    ),
    Bug(
        name="too-late",
        breaks="no contribution is too late",
        faults=LOST_ANSWERS,
        seed=13,
        places=_too_late,
    ),
    Bug(
        name="into-a-closed-round",
        breaks="what is late enters the round that was closed",
        seed=11,
        places=_into_a_closed_round,
    ),
    Bug(
        name="merge-not-durable",
        breaks="a merge is recorded before its blobs are on disk",
        faults=POWER,
        seed=1,
        places=_merge_not_durable,
    ),
    Bug(name="merged-twice", breaks="the same merge can be recorded twice", places=_merged_twice),
    Bug(
        name="erased-too-early", breaks="contributions nodes still need are erased", places=_erased_too_early
    ),
    Bug(name="arrival-order", breaks="a merge is not in the order of names", places=_arrival_order),
)
