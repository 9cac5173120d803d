"""What becomes of a node's own contribution to a run: sent, revealed, held against the ledger."""

from __future__ import annotations

from tapestry.errors import Behind, IntegrityError
from tapestry.node.tools import Tools
from tapestry.protocol.canonical import sha256
from tapestry.protocol.views import NodeStanding, OpenRound, RunView


class Delivery:
    """Of one run. Every step may be repeated."""

    def __init__(self, run: str, tools: Tools) -> None:
        self.run = run
        self._tools = tools

    def standing(self, at: OpenRound | None) -> NodeStanding | None:
        """This node in a round."""
        nodes = at.nodes if at is not None else ()
        return next((node for node in nodes if node.node == self._tools.node), None)

    def refusal(self, view: RunView) -> str | None:
        """Why the newest contribution is in no merge, in words."""
        own = self._tools.memory[self.run].contribution
        if own is not None and own.outcome == "refused":
            return f"the contribution to round {own.round} was refused: {own.reason}"
        standing = self.standing(view.current)
        if view.current is not None and standing is not None and standing.status in ("refused", "late"):
            why = standing.reason or standing.status
            return f"the contribution to round {view.current.round} was refused: {why}"
        return None

    def compare(self, view: RunView) -> None:
        """A core that was restored from an older copy may lack what it has receipted: that is sent again."""
        tools = self._tools
        own, at = tools.memory[self.run].contribution, view.current
        standing = self.standing(at)
        if own is None or at is None or standing is None or not standing.expected or not own.is_for(at):
            return
        if tools.replica.size < tools.submitter.receipted_at(self.run):
            return
        outcome = own.outcome
        if standing.status is None and at.phase == "training" and outcome in ("committed", "receipted"):
            outcome = "signed"
        elif standing.status == "committed" and outcome == "receipted":
            outcome = "committed"
        if outcome != own.outcome:
            tools.memory.set(self.run, contribution=own.model_copy(update={"outcome": outcome}))

    def send(self, *, commit: bool) -> None:
        """Send what is signed: its envelope alone where it is to be committed first."""
        self._tools.submitter.hand_in(self.run, commit=commit)
        self._keep()

    def reveal(self) -> None:
        """Let the bytes go of what was committed, once this node's own ledger shows the round as sealed."""
        tools = self._tools
        own, state = tools.memory[self.run].contribution, tools.replica.state(self.run)
        if own is None or own.outcome != "committed" or state is None:
            return
        found = state.sent(tools.node, sha256(own.envelope.encode("ascii")))
        if found is not None and found[1].status == "refused":
            tools.submitter.refused(self.run, found[1].reason or "refused")
        elif found is not None and found[0].phase == "revealing":
            tools.submitter.reveal(self.run)
            self._keep()

    def _keep(self) -> None:
        """What the core has acknowledged, this node can give back to it."""
        tools = self._tools
        own, receipted = tools.memory[self.run].contribution, tools.submitter.receipted_at(self.run)
        if own is None or own.outcome == "committed" or tools.replica.kept >= receipted:
            return
        try:
            tools.replica.follow(receipted)
        except Behind:  # it was restored from a copy older than its receipt, and nobody has the entry
            if tools.submitter.take_back(self.run):
                raise
        tools.replica.keep()
        self._check_receipt()

    def _check_receipt(self) -> None:
        """What the core gave a receipt for must be in the ledger it signs. Raises `IntegrityError`."""
        own = self._tools.memory[self.run].contribution
        if own is None or own.outcome != "receipted":
            return
        if not self._tools.replica.bears_out(self.run, sha256(own.envelope.encode("ascii"))):
            raise IntegrityError(
                f"the core gave a receipt for the contribution to round {own.round}, and its ledger has none",
                hint=f"{self._tools.home.receipts} holds the receipt: show it to the other members",
            )
