"""Repeats what members decided: the envelopes are taken that led to an entry, and what the rules make of them
must be the entry that stands there. So a decision that the ballots do not give holds nowhere, nor one that is
too early or too late."""

from __future__ import annotations

from typing import Final

from tapestry.errors import IntegrityError
from tapestry.governance import machine, pledging
from tapestry.governance.disputes import dispute
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import (
    AccountDisputed,
    BallotCast,
    CharterAdopted,
    Entry,
    Governed,
    PledgeConfirmed,
    PledgeMade,
    ProposalDecided,
    ProposalOpened,
)

MAY_STAND: Final = ("proposal-decided", "core-succeeded")
"""After a deadline. A new key of the core is signed for at one size of the ledger: nothing is added."""


def repeated(
    assembly: Assembly,
    entry: Entry,
    event: Governed,
    consortium: str,
    contributed: machine.Contributed | None = None,
) -> Assembly:
    """The assembly after an entry. Raises `IntegrityError` and whatever the rules refuse it with."""
    moment = machine.Moment(
        consortium=consortium, at=entry.at, sequence=entry.sequence, contributed=contributed
    )
    step: machine.Step | None
    match event:
        case CharterAdopted():
            envelopes = machine.texts(event.envelopes)
            step = machine.adopt(assembly, machine.charter_of(event.charter), envelopes, moment)
        case ProposalOpened():
            step = machine.propose(assembly, Envelope.from_bytes(event.envelope.encode()), moment)
        case BallotCast():
            step = machine.vote(assembly, Envelope.from_bytes(event.envelope.encode()), moment)
        case ProposalDecided():
            step = machine.settle(assembly, moment)
        case PledgeMade():
            step = pledging.pledge(assembly, Envelope.from_bytes(event.envelope.encode()), moment)
        case PledgeConfirmed():
            step = pledging.confirm(assembly, Envelope.from_bytes(event.envelope.encode()), moment)
        case AccountDisputed():
            step = dispute(assembly, Envelope.from_bytes(event.envelope.encode()), moment)
    if step is None:
        raise IntegrityError(f"{event.type}: no vote has ended by {entry.at}")
    if step.event is None:
        raise IntegrityError(f"{event.type}: that was so before")
    if step.event != event:
        raise IntegrityError(f"by the rules comes another {step.event.type}, the ledger has {event.type}")
    return step.assembly


def nothing_overdue(assembly: Assembly, entry: Entry) -> None:
    """Raise `IntegrityError` for an entry that stands where a vote must be decided first."""
    item = assembly.governance.overdue(entry.at)
    if item is not None and entry.type not in MAY_STAND:
        raise IntegrityError(
            f"voting on {item.proposal[:12]} ended at {item.closes}, and {entry.type} stands before what was "
            "decided"
        )
