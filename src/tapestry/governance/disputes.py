"""Disputes about the account: a member says, signed, which number is wrong. Recorded, shown beside the
statement ever after; no number is changed by it. Format: docs/formats/entitlements.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from tapestry.errors import Conflict, NotFound, SignatureError
from tapestry.governance.machine import Moment, Step
from tapestry.governance.proposal import VOTE_ONLY, Reason
from tapestry.governance.state import Assembly
from tapestry.governance.words import Title
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import AccountDisputed
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message
from tapestry.protocol.messages import RoundNumber

MAX_DISPUTES: Final = 256
"""Of one member: what is recorded stays, and everybody keeps it."""
What = Literal["tokens", "steps", "time", "bytes", "availability", "weight", "refusal", "other"]


class Dispute(Message):
    """The account of a member is wrong there; signed by the vote key of the member that says so."""

    format: Literal["tapestry.dispute"] = "tapestry.dispute"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    run: Name
    round: RoundNumber | None
    """None of the whole run."""
    about: Name
    """Whose account it is; mostly the member's own."""
    what: What
    claim: Title
    """What it should say instead."""
    reason: Reason


def dispute(assembly: Assembly, envelope: Envelope, moment: Moment) -> Step:
    """Record that a member disputes the account; the same dispute again has no effect. Who is suspended may.

    Raises:
        NotFound: nobody of that name was ever a member.
        Conflict: the member has disputed too much.
        AuthError, FormatError: as of `KeyRing.verify`.
    """
    said, _ = assembly.ring.verify(envelope, Dispute, at=moment.at, roles=VOTE_ONLY)
    if said.consortium != moment.consortium:
        raise SignatureError(
            f"the dispute was signed for consortium {said.consortium[:12]}, "
            f"this one is {moment.consortium[:12]}",
            hint="sign it for this consortium",
        )
    known, digest = assembly.governance.disputes, said.digest
    if digest in known:
        return Step(assembly=assembly, event=None)
    if said.about not in assembly.ring.members:
        raise NotFound(f"there is no member {said.about}", hint="see: tapestry member key list")
    if sum(member == said.member for member in known.values()) >= MAX_DISPUTES:
        raise Conflict(
            f"member {said.member} has disputed {MAX_DISPUTES} times",
            hint="put what is left to the vote, or talk to the others",
        )
    changed = assembly.governance.model_copy(update={"disputes": {**known, digest: said.member}})
    event = AccountDisputed(member=said.member, dispute=digest, envelope=envelope.to_bytes().decode("ascii"))
    return Step(assembly=replace(assembly, governance=changed), event=event)
