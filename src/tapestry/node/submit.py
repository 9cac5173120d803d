"""Handing in what passed the gate: contributions, and scores as far as the owner publishes them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

from tapestry.errors import (
    Conflict,
    IntegrityError,
    KeyRefused,
    NotFound,
    ProtocolError,
    RightsRefused,
    SignatureError,
    TooLarge,
    Unreachable,
    VersionError,
)
from tapestry.host import failpoints, files
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.node import child
from tapestry.node.account import Meter
from tapestry.node.held import WITHDRAWN, Held
from tapestry.node.home import Home, round_name
from tapestry.node.memory import Memory, OwnContribution
from tapestry.node.outbox import Outbox
from tapestry.node.settings import NodeSection
from tapestry.node.setup import Consortium
from tapestry.node.sync import blobs_of
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Blob
from tapestry.protocol.messages import Contribution, Enrolment, Receipt, Score
from tapestry.protocol.plan import Plan
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainResult
from tapestry.transport.client import ContributionAnswer, CoreClient

MAX_UPLOADS = 5
"""How often blobs are sent again when the core says it lacks some."""


class Submitter:
    """Signs with the client's key and keeps what it signs until the core has receipted it.

    Args:
        checkpoint: the newest head of the ledger that this node has verified, which a contribution carries.
        core_keys: that may sign receipts, the likeliest first; the one the node joined under where it keeps
            no ledger.
        level: how far text and network are apart, by what the trainer found of itself.
    """

    def __init__(
        self,
        home: Home,
        node: NodeSection,
        joined: Consortium,
        client: CoreClient,
        store: BlobStore,
        memory: Memory,
        outbox: Outbox,
        tell: Callable[[str], None] = lambda _: None,
        meter: Meter | None = None,
        *,
        checkpoint: Callable[[], str | None] = lambda: None,
        core_keys: Callable[[], Iterator[str]] | None = None,
        level: Callable[[str | None], str] = lambda _: "none",
    ) -> None:
        self._level = level
        self._checkpoint = checkpoint
        self._core_keys = core_keys or (lambda: iter((joined.core_key,)))
        self._meter = meter or Meter()
        self._home = home
        self._node = node
        self._joined = joined
        self._client = client
        self._store = store
        self._memory = memory
        self._outbox = outbox
        self._tell = tell
        self._receipted: dict[str, int] = {}
        self.held = Held(home)

    def receipted_at(self, run: str) -> int:
        """As of which position in the event log the core has this node's newest contribution, or its word for
        it, as far as this process was told; else 0."""
        return self._receipted.get(run, 0)

    def enrol(self, plan: Plan) -> int:
        """Take part in a run under this plan; again, no effect. Returns as of which position in the
        event log that is so."""
        message = Enrolment(
            consortium=self._joined.consortium,
            run=plan.run,
            plan=plan.digest,
            member=self._node.member,
            node=self._node.name,
        )
        envelope = self._sign(message)
        self._outbox.signed("enrolment", plan.run, envelope)
        answer = self._client.enrol(plan.run, envelope)
        sequence = answer.get("sequence") if isinstance(answer, dict) else None
        return sequence if isinstance(sequence, int) else 0

    # -- contributions --------------------------------------------------------------------------

    def sign(self, result: TrainResult) -> None:
        """Sign the contribution of a round, once; `hand_in` sends it."""
        if result.delta is None:
            return
        own = self._memory[result.run].contribution
        if own is None or (own.round, own.delta) != (result.round, result.delta):
            envelope = self._sign(self._contribution(result, result.delta))
            own = OwnContribution(round=result.round, delta=result.delta, envelope=envelope.decode("ascii"))
            self._outbox.signed("contribution", round_name(result.run, result.round), envelope)
            self._memory.set(result.run, contribution=own)
            failpoints.reach("node.contribution.signed")

    def hand_in(self, run: str, *, commit: bool = False) -> None:
        """Send the newest contribution if the core has not answered for it yet; its envelope alone where the
        bytes are to be revealed later. Harmless to repeat.

        A refusal is remembered with its reason and not raised.

        Raises:
            PeerError: the core is away, or computes a merge while this is late for it; try again.
            AuthError: the core does not accept this node's key.
        """
        own = self._memory[run].contribution
        if own is None or own.outcome != "signed" or self._held_back(run, own):
            return
        self._tell(f"handing in round {own.round}")
        own = self._signed_by_present_key(run, own)
        self._send(run, own, self._commit if commit else self._deliver)

    def reveal(self, run: str) -> None:
        """Send the bytes of what was committed. The round must be sealed: from now on others may see them.
        Errors as of `hand_in`."""
        own = self._memory[run].contribution
        if own is not None and own.outcome == "committed" and not self._held_back(run, own):
            self._tell(f"revealing round {own.round}")
            self._send(run, own, self._deliver)

    def _held_back(self, run: str, own: OwnContribution) -> bool:
        """Whether it may not be sent any more, since text behind it was withdrawn."""
        try:
            self._check_held(own)
        except RightsRefused as error:
            self.refused(run, error.message)
            return True
        return False

    def _check_held(self, own: OwnContribution) -> None:
        """Raise `RightsRefused` where it may not be sent any more."""
        if self.held.covers(own.said.data_manifest, own.delta):
            raise RightsRefused(WITHDRAWN)

    def refused(self, run: str, reason: str) -> None:
        """The newest contribution is in no merge; the ledger says why."""
        own = self._memory[run].contribution
        if own is not None:
            self._memory.set(
                run, contribution=own.model_copy(update={"outcome": "refused", "reason": reason})
            )
            child.log("contribution-refused", run=run, round=own.round, reason=reason)

    def _send(
        self, run: str, own: OwnContribution, how: Callable[[str, OwnContribution], ContributionAnswer]
    ) -> None:
        try:
            answer = how(run, own)
        except (VersionError, SignatureError):
            raise
        except (ProtocolError, IntegrityError, RightsRefused, TooLarge) as error:
            self.refused(run, error.message)
            return
        failpoints.reach("node.contribution.sent")
        if answer.receipt is None:
            self._receipted[run] = answer.committed or self.receipted_at(run)
            self._memory.note(run, contribution=own.model_copy(update={"outcome": "committed"}))
            failpoints.reach("node.contribution.committed")
            child.log("contribution-committed", run=run, round=own.round)
            return
        self._keep_receipt(run, own, answer.receipt)
        self._memory.note(run, contribution=own.model_copy(update={"outcome": "receipted"}))
        failpoints.reach("node.contribution.receipted")
        child.log("contribution-receipted", run=run, round=own.round)

    def take_back(self, run: str) -> bool:
        """The core has lost the newest contribution that it gave a receipt for. It is sent again, and that is
        True; at the second time the node goes on without it. The receipt is kept: it is the core's word."""
        own = self._memory[run].contribution
        self._receipted.pop(run, None)
        if own is None or own.outcome != "receipted":
            return False
        path = self._home.receipts / f"{round_name(run, own.round)}.json"
        lost = path.with_suffix(".lost.json")
        again = not lost.exists()
        path.replace(lost)
        reason = None if again else "the core gave receipts for it, and its ledger has none"
        outcome = "signed" if again else "refused"
        self._memory.set(run, contribution=own.model_copy(update={"outcome": outcome, "reason": reason}))
        child.log("receipt-broken", run=run, round=own.round, again=again)
        return again

    def _contribution(self, result: TrainResult, delta: str) -> Contribution:
        return Contribution(
            consortium=self._joined.consortium,
            run=result.run,
            plan=result.plan,
            round=result.round,
            fragment=result.fragment,
            member=self._node.member,
            node=self._node.name,
            state=result.state,
            delta=delta,
            tokens=result.tokens,
            steps=result.steps,
            data_manifest=result.data_manifest,
            environment={**result.environment, "airlock": self._level(result.environment.get("isolation"))},
            nonce=secrets.token_hex(16),
            checkpoint=self._checkpoint(),
            train_ms=None if self._node.publish == "none" else _milliseconds(result.train_s),
            bytes=sum(blob.bytes for blob in blobs_of(self._store, delta)),
        )

    def _commit(self, run: str, own: OwnContribution) -> ContributionAnswer:
        """The envelope alone. A core that asks for the bytes has it already."""
        return self._client.contribute(run, own.envelope.encode("ascii"))

    def _deliver(self, run: str, own: OwnContribution) -> ContributionAnswer:
        """Bytes first, then the envelope."""
        envelope = own.envelope.encode("ascii")
        blobs = blobs_of(self._store, own.delta)
        for _ in range(MAX_UPLOADS):
            with self._meter.span("uploaded"):
                try:
                    self._meter.add("uploaded_bytes", self._upload(blobs, own))
                except Conflict as error:  # another connection of this node still holds a blob: no refusal
                    raise Unreachable(f"an upload got nowhere: {error.message}") from error
            self._check_held(own)
            answer = self._client.contribute(run, envelope)
            if not answer.missing:
                return answer
            known = {blob.sha256 for blob in blobs}
            if not known.issuperset(answer.missing):
                raise Conflict("the core asks for blobs that are no part of the contribution")
        raise Conflict(f"the core lost the blobs of round {own.round} {MAX_UPLOADS} times")

    def _upload(self, blobs: Sequence[Blob], own: OwnContribution) -> int:
        """Bytes sent. The text may be withdrawn meanwhile: then this ends before the next request."""
        return self._client.upload_blobs(blobs, self._store, before=lambda: self._check_held(own))

    def _keep_receipt(self, run: str, own: OwnContribution, receipt: bytes) -> None:
        """Verify and keep it: with the envelope it proves what the core has taken in."""
        envelope = Envelope.from_bytes(receipt)
        said = self._opened(envelope)
        contribution = canonical.sha256(own.envelope.encode("ascii"))
        if (said.run, said.round, said.node, said.contribution) != (
            run,
            own.round,
            self._node.name,
            contribution,
        ):
            raise SignatureError(f"the core's receipt is not for the contribution to round {own.round}")
        self._receipted[run] = said.sequence
        both = {
            "contribution": canonical.decode(own.envelope.encode("ascii"), max_bytes=Envelope.MAX_BYTES),
            "receipt": envelope.model_dump(mode="json"),
        }
        path = self._home.receipts / f"{round_name(run, own.round)}.json"
        files.write_atomic(path, canonical.encode(both))

    def _opened(self, receipt: Envelope) -> Receipt:
        """Raises `SignatureError` where the core did not sign it."""
        for key in self._core_keys():
            try:
                return receipt.open_as(Receipt, key)
            except SignatureError as e:
                refused = e
        raise refused

    def _signed_by_present_key(self, run: str, own: OwnContribution) -> OwnContribution:
        """After a rotation: the same contribution under the new key, unless the core has the old one."""
        keypair = self._keypair()
        old = Envelope.from_bytes(own.envelope.encode("ascii"))
        if old.signatures[0].keyid == keypair.key_id:
            return own
        envelope = self._sign(own.said)
        own = own.model_copy(update={"envelope": envelope.decode("ascii")})
        self._outbox.signed("contribution", round_name(run, own.round), envelope)
        self._memory.set(run, contribution=own)
        return own

    # -- scores ---------------------------------------------------------------------------------

    def score(self, result: TrainResult) -> None:
        """Publish the score of the base that was trained from, if there is one to publish."""
        before = self._memory[result.run].scored
        if result.score is None or self._node.publish == "none" or self.held.covers(result.data_manifest):
            return
        if before is not None and before >= result.merges:
            return
        message = Score(
            consortium=self._joined.consortium,
            run=result.run,
            member=self._node.member,
            node=self._node.name,
            merges=result.merges,
            state=result.state,
            bits_per_byte=result.score.bits_per_byte,
            bytes=result.score.bytes,
        )
        envelope = self._sign(message)
        self._outbox.signed("score", round_name(result.run, result.round), envelope)
        try:
            self._client.score(result.run, envelope)
        except (Conflict, NotFound) as error:
            child.log("score-refused", run=result.run, merges=result.merges, reason=error.message)
        self._memory.note(result.run, scored=result.merges)

    def _sign(self, message: Contribution | Enrolment | Score) -> bytes:
        return sign(message, self._keypair()).to_bytes()

    def _keypair(self) -> KeyPair:
        if self._client.keypair is None:
            raise KeyRefused("this node has no key")
        return self._client.keypair


def _milliseconds(seconds: float) -> int:
    """With four digits: as many as an account needs, and no room for anything else."""
    return round(float(f"{seconds * 1000:.4g}"))
