"""What members sign when they decide together: charters, proposals and ballots.

Each is a closed message in an envelope, signed by a key of the role `vote`. What a proposal is about stands
in one of twelve closed subjects, one for each kind of decision. Formats in prose: docs/formats/votes.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from tapestry.governance.charter import Charter
from tapestry.governance.tally import Choice
from tapestry.governance.words import ABOUT_ONE, Kind, Title
from tapestry.identity.keyring import Role
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Nonce, PublicKey
from tapestry.protocol.plan import Plan

VOTE_ONLY: Final[frozenset[Role]] = frozenset({"vote"})
MAX_TEXT: Final = 20_000
MAX_REASON: Final = 2_000
MAX_BALLOTS: Final = 100
"""Of one member on one proposal: a mind may be changed, but not without end."""
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _lines(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("holds a control character other than a line feed")
    return text


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT), AfterValidator(_lines)]
Reason = Annotated[str, StringConstraints(max_length=MAX_REASON), AfterValidator(_lines)]


class Admit(Part):
    """A new member may be invited; it has one seat until a charter says otherwise."""

    kind: Literal["admit"] = "admit"
    member: Name


class Suspend(Part):
    """A member takes no part for the time that the charter says."""

    kind: Literal["suspend"] = "suspend"
    member: Name


class Expel(Part):
    """A member is out: its keys end."""

    kind: Literal["expel"] = "expel"
    member: Name


class RatifyPlan(Part):
    """A planned run may start."""

    kind: Literal["ratify-plan"] = "ratify-plan"
    run: Name
    plan: Sha256


class RevisePlan(Part):
    """A run may go on under another plan, which stands here in full."""

    kind: Literal["revise-plan"] = "revise-plan"
    plan: Plan


class OpenPhase(Part):
    kind: Literal["open-phase"] = "open-phase"
    phase: Name


class ChangeCharter(Part):
    """Another charter, in full, in the place of the one in force."""

    kind: Literal["change-charter"] = "change-charter"
    charter: Charter


class AcceptRelease(Part):
    """A state of a run is released under a name."""

    kind: Literal["accept-release"] = "accept-release"
    release: Name
    state: Sha256


class RevokeRelease(Part):
    kind: Literal["revoke-release"] = "revoke-release"
    release: Name


class AppointOperator(Part):
    """A member is to run the core."""

    kind: Literal["appoint-operator"] = "appoint-operator"
    member: Name


class ReplaceRootKey(Part):
    """A member's lost root key is replaced; all keys that the old one certified end."""

    kind: Literal["replace-root-key"] = "replace-root-key"
    member: Name
    root_key: PublicKey


class HearAppeal(Part):
    """A suspension or expulsion is undone."""

    kind: Literal["hear-appeal"] = "hear-appeal"
    member: Name
    decision: Sha256
    """The proposal that was decided so."""


Subject = Annotated[
    Admit
    | Suspend
    | Expel
    | RatifyPlan
    | RevisePlan
    | OpenPhase
    | ChangeCharter
    | AcceptRelease
    | RevokeRelease
    | AppointOperator
    | ReplaceRootKey
    | HearAppeal,
    Field(discriminator="kind"),
]


def kind_of(subject: Subject) -> Kind:
    return subject.kind


def about(subject: Subject) -> str | None:
    """The one party a decision is about; None for the kinds that are about none."""
    return str(getattr(subject, "member")) if subject.kind in ABOUT_ONE else None  # noqa: B009


class CharterSignature(Message):
    """This member is for a consortium's first charter; signed by its vote key."""

    format: Literal["tapestry.charter-signature"] = "tapestry.charter-signature"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    charter: Sha256


class Proposal(Message):
    """Puts a question to the vote; signed by the vote key of the member that asks it. Its digest names it."""

    format: Literal["tapestry.proposal"] = "tapestry.proposal"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    charter: Sha256
    """In force when it was written."""
    subject: Subject
    title: Title
    text: Text
    """Why, for those who vote."""
    nonce: Nonce


class Ballot(Message):
    """A member's vote; signed by its vote key. Of several on one proposal the last one counts."""

    format: Literal["tapestry.ballot"] = "tapestry.ballot"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    proposal: Sha256
    number: Annotated[int, Field(ge=1, le=MAX_BALLOTS)]
    """One more with each ballot of this member on this proposal, so that nobody can put an older one behind a
    newer one."""
    choice: Choice
    reason: Reason
