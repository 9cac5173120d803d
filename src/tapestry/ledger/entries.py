"""Entries of the event log.

Every state change of a consortium and of its runs is one entry, written in the same transaction as
the change. An entry holds names, hashes, rules and published figures; never data. `type` and `body`
are one of the closed events below (scope `consortium`) or of `tapestry.rounds.events` (scope: the
run's name).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from tapestry.errors import FormatError
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part, explain
from tapestry.protocol.messages import KeyId, Nonce, PublicKey, Time

CONSORTIUM = "consortium"
"""Scope of events that belong to no run; no run may have this name."""


Contributed = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]


class Entry(Message):
    """One event at its position. The digest of the first entry is the consortium's id."""

    format: Literal["tapestry.entry"] = "tapestry.entry"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 32 << 20
    """What closes a round of 10,000 nodes takes 3 MB, what 10,000 members sign for a new key some 8."""

    sequence: Annotated[int, Field(ge=1, le=1 << 53)]
    at: Time
    """The core's clock."""
    scope: Name
    type: Annotated[str, StringConstraints(pattern=r"^[a-z]+(?:-[a-z]+)*$", max_length=64)]
    body: dict[str, Any]

    @field_validator("body")
    @classmethod
    def _one_type(cls, body: dict[str, Any]) -> dict[str, Any]:
        if "type" in body:
            raise ValueError("the body names a type beside the entry's own")
        return body


class Founded(Part):
    """The first entry: who runs the core, and a nonce that makes the id unique."""

    type: Literal["founded"] = "founded"
    title: Annotated[str, StringConstraints(max_length=200)]
    core_key: PublicKey
    nonce: Nonce


class MemberAdmitted(Part):
    """A member joined by invitation; `envelope` is its Join, signed by its root key."""

    type: Literal["member-admitted"] = "member-admitted"
    member: Name
    root_key: PublicKey
    envelope: str


class KeyCertified(Part):
    """An operational key became valid; `envelope` holds the KeyCertificate."""

    type: Literal["key-certified"] = "key-certified"
    member: Name
    key_id: KeyId
    envelope: str


class KeyRevoked(Part):
    """A key ended; `envelope` holds the KeyRevocation."""

    type: Literal["key-revoked"] = "key-revoked"
    member: Name
    key_id: KeyId
    envelope: str


class CoreSucceeded(Part):
    """Another key speaks for the ledger, as most of its members have signed."""

    type: Literal["core-succeeded"] = "core-succeeded"
    core_key: PublicKey
    envelopes: Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000)]
    """A `Succession` of each of these members."""


class CharterAdopted(Part):
    """The consortium has its first charter, as every member has signed; what follows is bound by it."""

    type: Literal["charter-adopted"] = "charter-adopted"
    charter: str
    """Canonical JSON of a `tapestry.charter`."""
    envelopes: Annotated[tuple[str, ...], Field(min_length=1, max_length=256)]
    """A `CharterSignature` of each member, by name."""


class ProposalOpened(Part):
    """A question is put to the vote; `envelope` holds the Proposal."""

    type: Literal["proposal-opened"] = "proposal-opened"
    member: Name
    proposal: Sha256
    closes: Time
    envelope: str
    contributions: Annotated[dict[Name, Contributed], Field(max_length=10_000)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Where votes go by contribution: what each member has contributed by then."""


class BallotCast(Part):
    """A vote came in time; `envelope` holds the Ballot."""

    type: Literal["ballot-cast"] = "ballot-cast"
    member: Name
    proposal: Sha256
    envelope: str


class VoteKey(Part):
    """The vote key by which a member speaks."""

    member: Name
    key_id: KeyId


class ProposalDecided(Part):
    """The count of a vote, after its deadline and before anything else."""

    type: Literal["proposal-decided"] = "proposal-decided"
    proposal: Sha256
    verdict: Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,32}$")]
    in_force: bool
    """It passed, and what it says is done by this entry."""
    tally: str
    """Canonical JSON of a `tapestry.tally`."""
    signers: Annotated[tuple[VoteKey, ...], Field(max_length=256)] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Of a release that is accepted by this, and of nothing else: who countersigns entitlements to it, by
    which key."""


class PledgeMade(Part):
    """A member brings something to a phase; `envelope` holds the Pledge."""

    type: Literal["pledge-made"] = "pledge-made"
    member: Name
    pledge: Sha256
    envelope: str


class PledgeConfirmed(Part):
    """A member has looked whether another's pledge is real; `envelope` holds the Confirmation."""

    type: Literal["pledge-confirmed"] = "pledge-confirmed"
    member: Name
    """Whose word it is."""
    pledge: Sha256
    envelope: str


class AccountDisputed(Part):
    """A member says that the account is wrong; `envelope` holds the Dispute. It changes no number."""

    type: Literal["account-disputed"] = "account-disputed"
    member: Name
    dispute: Sha256
    envelope: str


Governed = (
    CharterAdopted
    | ProposalOpened
    | BallotCast
    | ProposalDecided
    | PledgeMade
    | PledgeConfirmed
    | AccountDisputed
)
"""Events of `tapestry.governance`."""
ConsortiumEvent = Annotated[
    Founded | MemberAdmitted | KeyCertified | KeyRevoked | CoreSucceeded | Governed,
    Field(discriminator="type"),
]
_CONSORTIUM_EVENT: TypeAdapter[ConsortiumEvent] = TypeAdapter(ConsortiumEvent)


def make_entry(sequence: int, at: str, scope: str, event: Part) -> Entry:
    """The entry that records `event` (which has a `type`)."""
    body = event.model_dump(mode="json")
    return Entry(sequence=sequence, at=at, scope=scope, type=body.pop("type"), body=body)


def consortium_event(entry: Entry) -> ConsortiumEvent:
    """The typed event of an entry of scope `consortium`. Raises `FormatError`."""
    try:
        return _CONSORTIUM_EVENT.validate_json(canonical.plain_json({"type": entry.type, **entry.body}))
    except ValidationError as e:
        raise FormatError(f"entry {entry.sequence} is not a consortium event: {explain(e)}") from e
