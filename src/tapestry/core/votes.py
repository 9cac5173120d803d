"""Proposals and votes at the core: taken in, decided at their deadline, and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from tapestry.core.contributed import contributed
from tapestry.core.journal import ASSEMBLY, Decision, Journal, Moment, Standing
from tapestry.errors import NotFound, TapestryError
from tapestry.governance import disputes, machine
from tapestry.governance.charter import Charter
from tapestry.governance.proposal import Ballot, Proposal
from tapestry.governance.state import Assembly, Cast, Item
from tapestry.governance.tally import tally
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import Entry
from tapestry.protocol import canonical
from tapestry.protocol.clock import time_text

TICK_S: Final = 1.0
"""How often it is looked whether a deadline has passed; whatever is recorded meanwhile comes after it."""
Act = Callable[[Assembly, machine.Moment], machine.Step]


class Votes:
    """Of one consortium. Safe to use from several threads and processes: what is decided is decided once."""

    def __init__(self, journal: Journal, consortium: str) -> None:
        self._journal = journal
        self._consortium = consortium

    def adopt(self, charter: Charter, envelopes: Sequence[Envelope]) -> None:
        """Errors as of `governance.machine.adopt`."""
        self._act(lambda assembly, moment: machine.adopt(assembly, charter, envelopes, moment))

    def propose(self, envelope: Envelope) -> Item:
        """Errors as of `governance.machine.propose`."""
        assembly = self._act(lambda assembly, moment: machine.propose(assembly, envelope, moment))
        return assembly.governance.proposals[envelope.unverified(Proposal).digest]

    def vote(self, envelope: Envelope) -> tuple[Item, Cast]:
        """The proposal and the ballot as it was taken. Errors as of `governance.machine.vote`."""
        assembly = self._act(lambda assembly, moment: machine.vote(assembly, envelope, moment))
        said = envelope.unverified(Ballot)
        item = assembly.governance.proposals[said.proposal]
        return item, next(each for each in item.ballots if each.ballot == said.digest)

    def dispute(self, envelope: Envelope) -> str:
        """Its name. Errors as of `governance.disputes.dispute`."""
        self._act(lambda assembly, moment: disputes.dispute(assembly, envelope, moment))
        return envelope.unverified(disputes.Dispute).digest

    def settle(self) -> None:
        """Decide whatever is overdue, each in its own entry."""
        left = True

        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            nonlocal left
            assembly = standing.state if standing is not None else Assembly()
            step = machine.settle(assembly, self._moment(moment))
            left = step is not None
            if step is None or step.event is None:
                return Decision(state=assembly, events=())
            return Decision(state=step.assembly, events=(step.event,))

        while left:
            self._journal.apply_settling(decide)

    def overdue(self) -> bool:
        standing = self._journal.read(ASSEMBLY)
        now = time_text(self._journal.now_ms())
        return standing is not None and standing.state.governance.overdue(now) is not None

    # -- looking ------------------------------------------------------------------------------

    def assembly(self) -> Assembly:
        standing = self._journal.read(ASSEMBLY)
        return standing.state if standing is not None else Assembly()

    def item(self, proposal: str) -> Item:
        """By its digest. Raises `NotFound`."""
        item = self.assembly().governance.proposals.get(proposal)
        if item is None:
            raise NotFound(f"there is no proposal {proposal[:12]}", hint="see: tapestry proposal list")
        return item

    def shown(self, item: Item) -> dict[str, Any]:
        """All there is about a proposal, as JSON values: what was signed, with its place in the ledger, and
        the count; of one that is open, the count so far."""
        ballots = [
            {"sequence": each.sequence, "at": each.at, "envelope": self._body(each.sequence)["envelope"]}
            for each in item.ballots
        ]
        if item.outcome is not None:
            count = canonical.decode(self._body(item.outcome.sequence)["tally"].encode(), what="tally")
        else:
            charter = self.assembly().governance.charters[item.charter]
            found = tally(charter, item.question, item.standings(charter), item.counted())
            count = found.model_dump(mode="json")
        return {
            **summary(item),
            "envelope": self._body(item.sequence)["envelope"],
            "ballots": ballots,
            "tally": count,
        }

    def _body(self, sequence: int) -> dict[str, Any]:
        (data,), _ = self._journal.entries(sequence - 1, limit=1, max_bytes=1)
        return Entry.from_bytes(data).body

    # -- acting -------------------------------------------------------------------------------

    def _act(self, act: Act) -> Assembly:
        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            assembly = standing.state if standing is not None else Assembly()
            step = act(assembly, self._moment(moment))
            return Decision(state=step.assembly, events=() if step.event is None else (step.event,))

        return self._journal.apply(ASSEMBLY, decide).state

    def _moment(self, moment: Moment) -> machine.Moment:
        return machine.Moment(
            consortium=self._consortium,
            at=moment.at,
            sequence=moment.sequence,
            contributed=partial(contributed, moment.connection),
        )


def summary(item: Item) -> dict[str, Any]:
    """A line of the list of proposals, as JSON values."""
    return {
        "proposal": item.proposal,
        "kind": item.question.kind,
        "about": item.question.about,
        "title": item.title,
        "member": item.member,
        "charter": item.charter,
        "opened": item.opened,
        "closes": item.closes,
        "sequence": item.sequence,
        "voted": sorted({each.member for each in item.ballots}),
        "outcome": None if item.outcome is None else item.outcome.model_dump(mode="json"),
    }


async def keep_deadlines(votes: Votes, tell: Callable[[str, dict[str, Any]], None]) -> None:
    """Until cancelled: decide what is overdue, also where nobody does anything else."""
    while True:
        await asyncio.sleep(TICK_S)
        try:
            if await asyncio.to_thread(votes.overdue):
                await asyncio.to_thread(votes.settle)
        except TapestryError as error:
            tell("votes-unsettled", {"code": error.code, "error": error.message})
