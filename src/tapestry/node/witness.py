"""Saying of a base that this node has repeated the merge: the word that others wait for before they train."""

from __future__ import annotations

import time

from tapestry.audit.heads import cosignature
from tapestry.errors import Conflict, MergeMismatch
from tapestry.host import failpoints
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import child, keys
from tapestry.node.home import Home, round_name
from tapestry.node.memory import Memory, OwnAttestation
from tapestry.node.outbox import Outbox
from tapestry.node.replica import Replica
from tapestry.node.settings import NodeSection
from tapestry.node.setup import Consortium
from tapestry.protocol.messages import Attestation
from tapestry.transport.client import CoreClient


class Witness:
    """Signs with the node's witness key, once for each base, and only what its own ledger holds."""

    def __init__(
        self,
        home: Home,
        node: NodeSection,
        joined: Consortium,
        client: CoreClient,
        memory: Memory,
        outbox: Outbox,
        replica: Replica,
    ) -> None:
        self._home = home
        self._node = node
        self._joined = joined
        self._client = client
        self._memory = memory
        self._outbox = outbox
        self._replica = replica

    def attest(self, run: str) -> None:
        """Sign and send the attestation of a run's head, if this node is asked for it and has repeated the
        merge. Harmless to repeat.

        Raises:
            MergeMismatch: this node has signed another base after as many merges.
            PeerError: the core is away.
        """
        state, head = self._replica.state(run), self._memory[run].head
        if state is None or head is None or not head.repeated or not state.plan.witness.quorum:
            return
        asked = state.enrolled.get(self._node.name) == self._node.member
        if not asked or not state.plan.witness.counts(self._node.member) or self._node.name in state.attested:
            return
        if (state.merges, state.head, state.head_round) != (head.merges, head.state, head.round):
            return
        envelope = self._signed(run, head.merges, head.round, head.state)
        try:
            self._client.attest(run, envelope)
        except Conflict as error:  # enough others were quicker, and the run has gone on
            child.log("attestation-late", run=run, merges=head.merges, reason=error.message)
            return
        failpoints.reach("node.attestation.sent")
        child.log("attested", run=run, merges=head.merges, state=head.state)

    def _signed(self, run: str, merges: int, round: int, state: str) -> bytes:
        own, key = self._memory[run].attested, keys.load_pair(self._home, "witness")
        if own is not None and own.merges == merges:
            if own.state != state:
                raise MergeMismatch(
                    f"this node has attested state {own.state[:12]} after merge {merges} of run {run}, the "
                    f"core now speaks of {state[:12]}",
                    hint="compare ledgers with the other members; do not train from that base",
                )
            signed = Envelope.from_bytes(own.envelope.encode("ascii"))
            if signed.signatures[0].keyid == key.key_id:
                return own.envelope.encode("ascii")
        head = self._replica.committed(run)
        if head is None:
            raise MergeMismatch(f"the ledger commits no merge of run {run}")
        node = self._node
        message = Attestation(
            consortium=self._joined.consortium,
            run=run,
            member=node.member,
            node=node.name,
            round=round,
            merges=merges,
            state=state,
            size=head.size,
            root=head.root.hex(),
            cosignature=cosignature(head, node.member, node.name, key, int(time.time())),
        )
        envelope = sign(message, key).to_bytes()
        self._outbox.signed("attestation", round_name(run, round), envelope)
        self._memory.set(
            run, attested=OwnAttestation(merges=merges, state=state, envelope=envelope.decode("ascii"))
        )
        failpoints.reach("node.attestation.signed")
        return envelope
