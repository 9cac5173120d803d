"""One run at one node: what follows from the core's view of it and from what passed the gate.

Every step may be repeated. After a crash the same view leads to the same job, the same envelope and
the same state.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tapestry.errors import FormatError, Refused
from tapestry.host import files
from tapestry.node import child
from tapestry.node.account import Account
from tapestry.node.delivery import Delivery
from tapestry.node.held import WITHDRAWN
from tapestry.node.home import Home, identity, parse_round_name, read_json
from tapestry.node.memory import HeadMemory, Memory
from tapestry.node.tools import Tools
from tapestry.protocol.artifact import State
from tapestry.protocol.plan import Origin, Plan
from tapestry.protocol.views import OpenRound, RunView
from tapestry.training.spool import TrainJob, TrainResult

MAX_RESULT_BYTES: Final = 16 << 10
SCORE_AFTER_S: Final = 1.0
MAX_UNSCORED: Final = 16


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job for the trainer, and where its outcome will be seen."""

    job: TrainJob
    data: bytes
    plan: str
    """Digest of the job's plan."""
    passed: str
    refusal: str

    @classmethod
    def of(cls, home: Home, job: TrainJob) -> Order:
        return cls(
            job=job,
            data=job.to_bytes(),
            plan=job.plan.digest,
            passed=str(home.passed(job.run, job.round)),
            refusal=str(home.refusal(job.run, job.round)),
        )

    def is_given(self, home: Home) -> bool:
        """Whether this is the job that lies before the trainer."""
        try:
            return files.read_limited(home.job, TrainJob.MAX_BYTES) == self.data
        except FileNotFoundError:
            return False


class Session:
    """One run."""

    def __init__(self, run: str, tools: Tools) -> None:
        self.run = run
        self.view: RunView | None = None
        self.plan: Plan | None = None
        self.order: Order | None = None
        """What this run wants of the trainer now."""
        self._in_hand: Order | None = None
        """The newest round to be trained of which nothing has passed the gate yet."""
        self.note: str | None = None
        """Something the owner should know: a refusal."""
        self._tools = tools
        self._enrolled_at = 0
        """Position in the event log."""
        self._accepted: tuple[int, int] = (0, 0)
        self._looked: tuple[int, int] | None = None
        """Inode and time of a result that was not the awaited one."""
        self._unscored: dict[int, tuple[TrainResult, float]] = {}
        """By merges: results whose score is still to be published, and since when."""
        self._given_up: bytes | None = None
        """A job whose result the gate refused."""
        self._scored_last = False
        """The final base is scored; the score may still have to be published."""
        self._delivery = Delivery(run, tools)
        self._account = Account(tools.home, run, tools.library.meter, tools.client.traffic.as_json)
        self._barred = False
        """The operator has withdrawn this node from the run."""

    @property
    def finished(self) -> bool:
        return self._tools.memory[self.run].finished

    @property
    def held(self) -> set[str]:
        """States that its jobs train from."""
        return {order.job.state for order in (self.order, self._in_hand) if order is not None}

    # -- the core's side ------------------------------------------------------------------------

    def follow(self, told: RunView) -> None:
        """Do all that a view asks for. Raises what may have to be tried again, or ends the node.

        The core says whether there is news, and no more: what it is, this node reads in its own ledger.
        """
        tools = self._tools
        # A core that has nothing new to say is asked for its newest head: two histories may be equally long.
        # A word older than what this node knows is late, or of a core that was restored from an older copy.
        if self.view is not None and self.view.sequence == told.sequence:
            tools.replica.doubted = True
        self.view = told
        tools.replica.follow(told.sequence, again=told.sequence < tools.replica.newest(self.run))
        view = tools.replica.view(self.run)
        if view.status == "finished" and tools.node not in view.enrolled and not self.finished:
            self._finish()  # it ended without this node
        if self.finished:
            self.order = None
            return
        if self.plan is None:
            self._find_unscored()
        plan = self._plan(view)
        self._prefetch(view, plan)
        self._advance(view, plan)
        tools.witness.attest(self.run)
        self._delivery.compare(view)
        self.hand_in()
        self._delivery.reveal()
        if self.finished:
            self.order = None
            return
        self._enrol(view, plan)
        if not self._barred:
            self.note = self._delivery.refusal(view) or self.note
        self.order = self._wanted(view, plan)
        if self.order is not None and self.order.job.train:
            self._in_hand = self.order
            self._account.given(self.order.job.round)

    def _enrol(self, view: RunView, plan: Plan) -> None:
        """Take part, unless this view is older than the enrolment."""
        out = view.status != "finished" and self._tools.node not in view.enrolled
        if not out or self._barred or view.sequence < self._enrolled_at:
            return
        self._tools.tell(f"enrolling in run {self.run}")
        try:
            self._enrolled_at = self._tools.submitter.enrol(plan)
        except Refused as error:  # for good; other runs go on
            self._barred = True
            self.note = error.message
            child.log("enrolment-refused", run=self.run, reason=error.message)

    def _plan(self, view: RunView) -> Plan:
        if self.plan is None or self.plan.digest != view.plan:
            plan = self._tools.library.message(view.plan, Plan)
            if plan.run != self.run:
                raise FormatError(f"the core gives the plan of run {plan.run} for run {self.run}")
            self._tools.replica.check_origin(plan)
            self._tools.library.model(plan)
            self.plan = plan
        return self.plan

    def _prefetch(self, view: RunView, plan: Plan) -> None:
        if view.current is None or plan.sync != "replay":
            return
        accepted = sum(
            node.status == "accepted" for node in view.current.nodes if node.node != self._tools.node
        )
        standing = (view.current.round, accepted)
        if accepted and standing > self._accepted and view.current.phase in ("training", "revealing"):
            self._tools.prefetcher.look(self.run, view.sequence, plan)
        self._accepted = max(standing, self._accepted)

    def _advance(self, view: RunView, plan: Plan) -> None:
        tools = self._tools
        memory = tools.memory[self.run]
        if memory.head is not None and memory.head.state == view.head.state:
            return
        if memory.head is not None and view.head.merges < memory.head.merges:
            tools.tell("the core is behind this node; it was restored from an older copy")
        with tools.prefetcher.held():
            head, replayed = tools.synchronizer.advance(memory.head, view, plan)
        tools.memory.set_head(
            self.run,
            head,
            replayed=memory.replayed + replayed,
            fetched=memory.fetched + (replayed == 0),
        )
        child.log("head", run=self.run, merges=head.merges, state=head.state, replayed=replayed)

    # -- the trainer's side ---------------------------------------------------------------------

    def _wanted(self, view: RunView, plan: Plan) -> Order | None:
        memory = self._tools.memory[self.run]
        head = memory.head
        if head is None:
            return None
        if view.status == "finished":
            return self._make_order(head, plan, view.head.round + 1, train=False, evaluate=True)
        at = view.current
        if self._still_counts(at, plan):
            return self._in_hand
        if at is None or at.phase != "training" or at.state != head.state:
            return None
        standing = self._delivery.standing(at)
        if standing is None or not standing.expected or standing.status is not None:
            return None
        if view.sequence < self._tools.submitter.receipted_at(self.run):
            return None  # it does not show yet what a late contribution has entered
        own = memory.contribution
        if own is not None and own.is_for(at) and own.outcome != "signed":
            return None
        evaluate = head.merges % plan.evaluation.every_rounds == 0
        order = self._make_order(head, plan, at.round, train=True, evaluate=evaluate)
        return None if self._refused_by_gate(order) else order

    def _still_counts(self, at: OpenRound | None, plan: Plan) -> bool:
        """Whether the trainer is at a round that is over, and its outcome may still enter a merge."""
        order = self._in_hand
        if order is None or order.job.plan != plan or at is None or not plan.rounds.staleness:
            return False
        late = at.round - order.job.round
        if not late <= plan.rounds.staleness or (late <= 0 and at.phase == "training"):
            return False
        return order.is_given(self._tools.home)

    def _make_order(self, head: HeadMemory, plan: Plan, round: int, *, train: bool, evaluate: bool) -> Order:
        if self.order is not None:
            job = self.order.job
            if (job.state, job.round, job.plan) == (head.state, round, plan):
                return self.order
        state = self._tools.library.message(head.state, State)
        self._looked = None
        merged = (
            self._merged_round(round, plan.origin) if train and plan.codec.error_feedback is not None else 0
        )
        return Order.of(
            self._tools.home,
            TrainJob(
                run=self.run,
                plan=plan,
                round=round,
                merges=head.merges,
                state=head.state,
                base=state.base,
                train=train,
                evaluate=evaluate,
                steps=plan.inner.steps_at(head.merges, self._tools.member) if plan.inner.paces else None,
                merged_round=merged,
            ),
        )

    def _merged_round(self, before: int, origin: Origin | None = None) -> int:
        """The newest round before `before` of which what was sent is in a merge, as far as it matters: what
        the trainer sent in a later one was merged nowhere, and returns to the residual. Where this run
        repeats another and nothing was sent in it yet, a round of that one."""
        places = [(self.run, before)]
        if origin is not None:
            places.append((origin.run, origin.round + 1))
        for run, end in places:
            passed = (parse_round_name(p.stem) for p in self._tools.home.egress.glob(f"{run}.*.json"))
            rounds = [named[1] for named in passed if named is not None and named[0] == run]
            newest = max((number for number in rounds if number < end), default=0)
            if newest and not self._tools.synchronizer.holds(run, newest, self._tools.node, end):
                return newest - 1
            if newest:
                return newest
        return 0

    def stirred(self) -> bool:
        """Whether the gate has said something about the awaited round; asked a hundred times a second."""
        order = self.order
        if order is None:
            return False
        return identity(order.passed) not in (None, self._looked) or identity(order.refusal) is not None

    def look(self) -> bool:
        """See whether the gate has let the awaited result pass, and sign it; True if it has. What is signed
        is for `hand_in`, and the trainer is free for another run."""
        order = self.order
        if order is None:
            return False
        result = self._passed(order)
        if result is None:
            if self._refused_by_gate(order):
                self.order = self._in_hand = None
            return False
        if order.job.train:
            self._account.trained(result)
            self._tools.submitter.sign(result)
        self._unscored[result.merges] = (result, time.monotonic())
        self._scored_last = not order.job.train
        self.order = self._in_hand = None
        return True

    def hand_in(self) -> None:
        """Send what `look` has signed. Raises as `follow`, which sends it too."""
        tools = self._tools
        if tools.replica.doubted:
            tools.replica.follow(tools.replica.size)
        self._delivery.send(commit=self.plan is not None and self.plan.rounds.reveal_s is not None)
        if self._scored_last:
            self.publish_scores(now=True)
            self._account.close()
            self._finish()

    def _finish(self) -> None:
        """Nothing more is to be done in this run. From now on this node may be away: what it ends with, a
        core that is lost can still have back from it."""
        self._tools.replica.keep()
        head = self._tools.memory[self.run].head
        if head is not None:
            self._tools.library.keep(head.state, self._plan(self._tools.replica.view(self.run)))
        self._tools.memory.set(self.run, finished=True)

    def publish_scores(self, *, now: bool = False) -> None:
        """Publish scores of rounds handed in, once nobody waits for this node any more."""
        at = self.view.current if self.view is not None else None
        for merges, (result, since) in sorted(self._unscored.items()):
            over = at is None or at.round != result.round
            if now or over or time.monotonic() - since > SCORE_AFTER_S:
                self._tools.submitter.score(result)
                del self._unscored[merges]

    def _find_unscored(self) -> None:
        """What an agent before this one handed in and had no time to publish."""
        for path in sorted(self._tools.home.egress.glob(f"{self.run}.*.json"), key=_modified)[-MAX_UNSCORED:]:
            if parse_round_name(path.name.removesuffix(".json")) is None:
                continue
            result = TrainResult.from_bytes(files.read_limited(path, MAX_RESULT_BYTES))
            own = self._tools.memory[self.run].contribution
            if result.run == self.run and own is not None and result.round <= own.round:
                self._unscored[result.merges] = (result, time.monotonic())

    def _passed(self, order: Order) -> TrainResult | None:
        looked = identity(order.passed)
        if looked is None or looked == self._looked:
            return None
        result = TrainResult.from_bytes(files.read_limited(order.passed, MAX_RESULT_BYTES))
        fits = (result.plan, result.state) == (order.plan, order.job.state)
        if not fits or (result.delta is not None) != order.job.train:
            self._looked = looked
            return None
        if self._tools.submitter.held.covers(result.data_manifest, result.delta):
            self._looked = looked
            self.note = f"round {result.round} is not sent: {WITHDRAWN}"
            child.log("held-back", run=self.run, round=result.round)
            return None
        return result

    def _refused_by_gate(self, order: Order) -> bool:
        """Whether the gate refused what came of this very job."""
        if self._given_up == order.data:
            return True
        if identity(order.refusal) is None:
            return False
        told = read_json(Path(order.refusal)) or {}
        if (told.get("plan"), told.get("state")) not in ((None, None), (order.plan, order.job.state)):
            Path(order.refusal).unlink(missing_ok=True)  # of an earlier job for this round
            return False
        self._given_up = order.data
        self.note = f"this node's own gate refused round {order.job.round}: {told.get('reason')}"
        return True


def summary(session: Session, memory: Memory) -> dict[str, Any]:
    """Where a run stands at this node, for its status."""
    kept, view = memory[session.run], session.view
    own = kept.contribution
    return {
        "status": view.status if view is not None else None,
        "merges": kept.head.merges if kept.head is not None else None,
        "state": kept.head.state if kept.head is not None else None,
        "round": view.current.round if view is not None and view.current is not None else None,
        "phase": view.current.phase if view is not None and view.current is not None else None,
        "rounds": session.plan.rounds.total if session.plan is not None else None,
        "waiting_for": view.waiting_for if view is not None else None,
        "training": session.order.job.round if session.order is not None else None,
        "contribution": None if own is None else {"round": own.round, "outcome": own.outcome},
        "replayed": kept.replayed,
        "fetched": kept.fetched,
        "finished": kept.finished,
        "note": session.note,
    }


def _modified(path: Path) -> float:
    return path.stat().st_mtime
