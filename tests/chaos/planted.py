"""Faults of our own, to see that the checks find them."""

from __future__ import annotations

from tapestry.core.runs import Runs
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.requests import Signer
from tapestry.protocol.clock import time_text
from tapestry.protocol.messages import Contribution, Receipt

FORGOTTEN = "n00-1"


def acknowledges_before_it_records() -> None:
    """A core that gives a receipt for one node's contributions and then loses them."""
    genuine = Runs.contribute

    def contribute(self: Runs, run: str, envelope: Envelope, by: Signer) -> object:
        said = envelope.unverified(Contribution)
        if said.node != FORGOTTEN:
            return genuine(self, run, envelope, by)
        now = self.journal.now_ms()
        receipt = Receipt(
            consortium=self.consortium.id,
            run=run,
            round=said.round,
            fragment=said.fragment,
            node=said.node,
            contribution=envelope.digest,
            sequence=self.journal.tree_head()[0] + 1,
            received_at=time_text(now),
            decided_by=time_text(now + 1000),
        )
        return sign(receipt, self.consortium.core_key)

    Runs.contribute = contribute  # type: ignore[method-assign, assignment]
