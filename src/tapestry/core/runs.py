"""Runs: every change goes through the round machine and the journal.

What a node hands in is judged here in full before anything of it is recorded; the bytes of a
contribution are looked at later, by screening (see `coordinator`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeVar

from tapestry.audit.heads import signed_checkpoint, tree_of
from tapestry.core.consortium import Consortium
from tapestry.core.deltas import Lacking, check_plan_blobs, find_artifact, read_message
from tapestry.core.journal import Decision, Journal, Moment, Standing, run_scope
from tapestry.core.views import received
from tapestry.errors import Conflict, KeyRefused, NotFound, PlanError, Refused
from tapestry.governance.effects import permit
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import NODE_ONLY, WITNESS_ONLY, Role, Signer
from tapestry.ledger.entries import CONSORTIUM
from tapestry.protocol.clock import time_text
from tapestry.protocol.layout import Layout
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Receipt, Score
from tapestry.protocol.plan import MAX_STALENESS, Plan
from tapestry.rounds import machine
from tapestry.rounds.events import RoundOpened, ScorePublished, parse_event
from tapestry.rounds.state import RunState
from tapestry.storage.blobs import BlobStore


@dataclass(frozen=True)
class Committed:
    """The core has a contribution's word, and wants its bytes when the round is sealed."""

    sequence: int
    """Position in the event log that shows it."""


KEPT_LAYOUTS: Final = 4
DECISION_MS: Final = 3_600_000
"""A contribution is accepted or refused within an hour, its reason in the ledger."""
M = TypeVar("M", Attestation, Enrolment, Contribution, Score)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What came from a node, to be looked at again where it is recorded."""

    envelope: Envelope
    kind: type[Attestation | Enrolment | Contribution | Score]
    roles: Collection[Role] = NODE_ONLY


class Runs:
    """All runs of one core. Safe to use from several threads."""

    def __init__(self, journal: Journal, store: BlobStore, consortium: Consortium) -> None:
        self.journal = journal
        self.store = store
        self.consortium = consortium
        self._layouts: OrderedDict[str, Layout] = OrderedDict()

    # -- looking ------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(name for name in self.journal.sequences() if name != CONSORTIUM)

    def standing(self, run: str) -> Standing[RunState]:
        """State of a run. Raises `NotFound`."""
        standing = self.journal.read(run_scope(run)) if run != CONSORTIUM else None
        if standing is None:
            raise NotFound(f"there is no run {run}", hint="list the runs with: tapestry run status")
        return standing

    def layout(self, sha: str) -> Layout:
        """A layout, of which the last few are kept."""
        layout = self._layouts.pop(sha, None) or read_message(self.store, sha, Layout)
        self._layouts[sha] = layout
        while len(self._layouts) > KEPT_LAYOUTS:
            self._layouts.popitem(last=False)
        return layout

    # -- the operator's -----------------------------------------------------------------------

    def plan(self, plan: Plan) -> Standing[RunState]:
        """Record a new run; the same plan again has no effect.

        Raises:
            PlanError: it cannot be run, or its blobs are not all here.
            Conflict: a run of that name has another plan.
        """
        if plan.run == CONSORTIUM:
            raise PlanError(f"a run may not be named {CONSORTIUM}")
        machine.check_plan(plan)
        self._check_origin(plan)
        self.store.sync([*check_plan_blobs(self.store, plan), self.store.put(plan.to_bytes())])

        def decide(moment: Moment, standing: Standing[RunState] | None) -> Decision[RunState]:
            if standing is None:
                step = machine.plan_run(plan)
                return Decision(state=step.state, events=step.events)
            if standing.state.status == "planned" and standing.state.plan == plan:
                return Decision(state=standing.state, events=())
            raise Conflict(
                f"run {plan.run} exists already",
                hint="give the new run another name, or revise the plan of this one",
            )

        return self.journal.apply(run_scope(plan.run), decide)

    def _check_origin(self, plan: Plan) -> None:
        """Raise `PlanError` where the run it repeats has no such round here."""
        if plan.origin is None:
            return
        opened = self.opened(plan.origin.run, plan.origin.round + 1)
        if opened is None or (opened.state, opened.plan) != (plan.initial_state, plan.origin.plan):
            raise PlanError(
                f"plan of run {plan.run}: no round {plan.origin.round + 1} of run {plan.origin.run} began "
                f"with state {plan.initial_state[:12]} under plan {plan.origin.plan[:12]}",
                hint="write the plan anew: tapestry catalog revoke NAME --home NODE_DIR --plan FILE",
            )

    def opened(self, run: str, number: int) -> RoundOpened | None:
        """How a round began, if there was one."""
        found = self.journal.of_round(run, number, "round-opened")
        event = parse_event(found[0].type, found[0].body) if found else None
        return event if isinstance(event, RoundOpened) else None

    def revise(self, plan: Plan) -> Standing[RunState]:
        """Give a run a new revision of its plan. Errors as of the round machine."""
        self.standing(plan.run)
        self.store.put(plan.to_bytes())
        return self.apply(plan.run, machine.Revise(plan=plan))

    # -- nodes' -------------------------------------------------------------------------------

    def enrol(self, run: str, envelope: Envelope, by: Signer) -> Standing[RunState]:
        given = machine.Enrol.of(self._opened(envelope, Enrolment, run, by), self._kept(envelope))
        return self.apply(run, given, Signed(envelope=envelope, kind=Enrolment))

    def score(self, run: str, envelope: Envelope, by: Signer) -> Standing[RunState]:
        """Record a score; the same again has no effect. Raises `Conflict` for another of the same base."""
        score = self._opened(envelope, Score, run, by)
        given = machine.Publish.of(score, self._kept(envelope))
        told = {name: getattr(score, name) for name in ("node", "state", "bits_per_byte", "bytes")}

        def decide(moment: Moment, standing: Standing[RunState] | None) -> Decision[RunState]:
            if standing is None:
                raise NotFound(f"there is no run {run}")
            state = standing.state
            known = {state.merges: state.head, state.plan.merges_before: state.plan.initial_state}
            if score.merges > state.merges or known.get(score.merges, score.state) != score.state:
                raise Conflict(f"run {run} has no state {score.state[:12]} after {score.merges} merges")
            for entry in self.journal.of_round(run, score.merges, "score-published"):
                before = parse_event(entry.type, entry.body)
                if isinstance(before, ScorePublished) and before.node == score.node:
                    if before.model_dump(include=set(told)) != told:
                        raise Conflict(
                            f"node {score.node} published another score after {score.merges} merges"
                        )
                    return Decision(state=state, events=())
            self._permit(moment, state, given, Signed(envelope=envelope, kind=Score))
            step = machine.step(state, given, moment.now_ms)
            return Decision(state=step.state, events=step.events, refusal=step.refusal)

        return self.journal.apply(run_scope(run), decide)

    def attest(self, run: str, envelope: Envelope, by: Signer) -> Standing[RunState]:
        """Record that a node has repeated the newest merge; the same again has no effect.

        Raises:
            Conflict: it names another state or another tree than the newest here.
            Refused: the node is no witness of the run.
            AuthError: signature, key, member or node are not right.
        """
        said = self._opened(envelope, Attestation, run, by, WITNESS_ONLY)
        tree_of(said, self._public_key(envelope), self.consortium.id)
        committed = self.journal.of_round(run, said.round, "round-committed")
        if not committed or (said.size, said.root) != self._tree(committed[-1].sequence):
            raise Conflict(f"the attestation of {said.node} is for another ledger than this core's")
        given = machine.Attest.of(said, self._kept(envelope))
        return self.apply(run, given, Signed(envelope=envelope, kind=Attestation, roles=WITNESS_ONLY))

    def contribute(self, run: str, envelope: Envelope, by: Signer) -> Envelope | Lacking | Committed:
        """Take in a contribution whose blobs are here, or, in a run that has them revealed later, its word:
        durable when this returns, and recorded once.

        Returns:
            the signed receipt, the same one for the same envelope; or which blobs lack.

        Raises:
            Refused, Conflict, NotFound: as the round machine says.
            ArtifactError, FormatError: its manifest is not a delta of the run's layout.
            AuthError: signature, key, member or node are not right.
        """
        digest = envelope.digest
        signed: Signed | None = None
        if self.standing(run).state.sent(str(by.node), digest) is not None:
            contribution = envelope.unverified(Contribution)  # it was looked at when it was recorded
        else:
            signed = Signed(envelope=envelope, kind=Contribution)
            contribution = self._opened(envelope, Contribution, run, by)
            self._check_checkpoint(contribution)
        if (receipt := self._receipt(contribution, digest)) is not None:
            return receipt
        state = self.standing(run).state
        given = _input(state, contribution, digest)
        step = machine.step(state, given, self.journal.now_ms())
        if step.refusal is not None and step.events:  # what is recorded of it, anybody may check
            self.store.put(envelope.to_bytes())
        if step.refusal is None:
            if state.plan.rounds.reveal_s is not None and isinstance(given, machine.Contribute):
                self._kept(envelope)
                return Committed(self.apply(run, given, signed).sequence)
            fragment = self.layout(state.plan.layout).fragment(contribution.fragment)
            shards = find_artifact(self.store, contribution.delta, fragment, "delta", state.plan.codec)
            if isinstance(shards, Lacking):
                return shards
            kept = self.store.put(envelope.to_bytes(), durable=False)
            self.store.sync([kept, contribution.delta, *(blob.sha256 for blob in shards)])
        self.apply(run, given, signed)
        receipt = self._receipt(contribution, digest)
        if receipt is None:
            raise Refused(
                f"contribution of {contribution.node} to round {contribution.round} was not taken in"
            )
        return receipt

    # -- everybody's --------------------------------------------------------------------------

    def apply(self, run: str, given: machine.Input, signed: Signed | None = None) -> Standing[RunState]:
        """One input to a run's round machine, recorded; `signed`: in which envelope it came. Raises what the
        machine raises, and `KeyRefused` where the key has ended by now."""

        def decide(moment: Moment, standing: Standing[RunState] | None) -> Decision[RunState]:
            if standing is None:
                raise NotFound(f"there is no run {run}")
            self._permit(moment, standing.state, given, signed)
            step = machine.step(standing.state, given, moment.now_ms)
            return Decision(state=step.state, events=step.events, refusal=step.refusal)

        return self.journal.apply(run_scope(run), decide)

    def _permit(self, moment: Moment, state: RunState, given: machine.Input, signed: Signed | None) -> None:
        """What only the transaction tells: a key may have ended, or a decision been taken, since the envelope
        was looked at, and in the ledger each stands before what comes now."""
        assembly = self.journal.assembly(moment)
        if signed is not None:
            assembly.ring.verify(
                signed.envelope, signed.kind, at=moment.at, sequence=moment.sequence, roles=signed.roles
            )
        permit(assembly, state, given, moment.at)

    def _kept(self, envelope: Envelope) -> str:
        """Where an envelope lies for good, before an event names it."""
        return self.store.put(envelope.to_bytes())

    def _tree(self, size: int) -> tuple[int, str]:
        return size, self.journal.tree_root(size).hex()

    def _public_key(self, envelope: Envelope) -> str:
        return self.consortium.ring().keys[envelope.signatures[0].keyid].certificate.public_key

    def _check_checkpoint(self, said: Contribution) -> None:
        """A head that this core has signed is a head of its ledger, unless the ledger was put back."""
        if said.checkpoint is None:
            return
        seen = signed_checkpoint(said.checkpoint, self.consortium.id, self.consortium.core_key_at)
        if self.journal.tree_head()[0] < seen.size or self._tree(seen.size)[1] != seen.root.hex():
            raise Conflict(
                f"the contribution of {said.node} follows a ledger of {seen.size} entries that is not this "
                "core's",
                hint="this core was restored from an older copy: tapestry core recover brings it forward",
            )

    def _opened(
        self, envelope: Envelope, kind: type[M], run: str, by: Signer, roles: Collection[Role] = NODE_ONLY
    ) -> M:
        """What an envelope says, if the node that asks has signed it, for this run of this consortium."""
        now = time_text(self.journal.now_ms())
        message, signer = self.consortium.ring().verify(envelope, kind, at=now, roles=roles)
        if (signer.member, signer.node) != (by.member, by.node):
            raise KeyRefused(f"{kind.format_name()} of node {signer.node} was sent by node {by.node}")
        if message.consortium != self.consortium.id:
            raise Refused(f"{kind.format_name()} is for consortium {message.consortium[:12]}, not this one")
        if message.run != run:
            raise Refused(f"{kind.format_name()} is for run {message.run}, not {run}")
        return message

    def _receipt(self, contribution: Contribution, digest: str) -> Envelope | None:
        # A late one is recorded with the round it has entered, which the state tells for a while.
        state = self.standing(contribution.run).state
        number, trained = contribution.round, state.find(contribution.round, contribution.fragment)
        if trained is not None and (own := state.submission(contribution.node, trained)) is not None:
            number += own.lag
        upto = min(state.last_round, contribution.round + MAX_STALENESS)
        every = (number, *(n for n in range(contribution.round, upto + 1) if n != number))
        looked = (received(self.journal, contribution.run, each, digest) for each in every)
        found = next((each for each in looked if each is not None), None)
        if found is None:
            return None
        entry, event = found
        receipt = Receipt(
            consortium=self.consortium.id,
            run=contribution.run,
            round=contribution.round,
            fragment=event.fragment,
            node=event.node,
            contribution=digest,
            sequence=entry.sequence,
            received_at=time_text(event.received_ms),
            decided_by=time_text(event.received_ms + DECISION_MS),
        )
        return sign(receipt, self.consortium.core_key)


def _input(state: RunState, said: Contribution, digest: str) -> machine.Contribute | machine.Reveal:
    """What a contribution is to a run: news, or the bytes of one that was committed."""
    found = state.sent(said.node, digest)
    if found is not None and state.plan.rounds.reveal_s is not None and found[0].phase != "training":
        return machine.Reveal(node=said.node, contribution=digest)
    return machine.Contribute.of(said, digest)
