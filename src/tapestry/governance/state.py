"""What the members have decided so far: the fold of the consortium's entries. Immutable, for snapshots.

A consortium without a charter has an empty one, and nothing is different for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Self

from pydantic import Field, ValidationError

from tapestry.errors import FormatError
from tapestry.governance.charter import Charter
from tapestry.governance.electorate import Standing
from tapestry.governance.pledge import Pledged
from tapestry.governance.proposal import Subject, about, kind_of
from tapestry.governance.tally import Ballot, Choice, Question, Verdict
from tapestry.identity.keyring import KeyRing
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Part, explain
from tapestry.protocol.messages import Time

FIELD: Final = "governance"
"""Beside the ring's fields in a snapshot."""


class Cast(Part):
    """A ballot that was taken."""

    member: Name
    choice: Choice
    number: int
    ballot: Sha256
    """Digest of the message."""
    at: Time
    sequence: int


class Outcome(Part):
    verdict: Verdict
    in_force: bool
    """It passed, and what it says was done. What others overtook meanwhile passes without effect."""
    at: Time
    sequence: int


class Item(Part):
    """A proposal, from its opening on."""

    proposal: Sha256
    member: Name
    subject: Subject
    title: str
    charter: Sha256
    """By which it is counted, whatever is in force at its end."""
    opened: Time
    closes: Time
    sequence: int
    members: tuple[Name, ...]
    """Of the consortium when it was opened."""
    suspended: tuple[Name, ...]
    """Of those."""
    contributions: dict[Name, int] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of those, where votes go by contribution."""
    ballots: tuple[Cast, ...] = ()
    outcome: Outcome | None = None

    @property
    def question(self) -> Question:
        return Question(kind=kind_of(self.subject), about=about(self.subject), opened=self.opened)

    def standings(self, charter: Charter) -> tuple[Standing, ...]:
        given = self.contributions or {}
        return tuple(
            standing(charter, name, name in self.suspended, given.get(name, 0)) for name in self.members
        )

    def counted(self) -> tuple[Ballot, ...]:
        return tuple(
            Ballot(member=each.member, choice=each.choice, at=each.at, sequence=each.sequence)
            for each in self.ballots
        )

    def last(self, member: str) -> Cast | None:
        """A member's newest ballot."""
        return next((each for each in reversed(self.ballots) if each.member == member), None)


class Suspended(Part):
    decision: Sha256
    until: Time


class Ratified(Part):
    decision: Sha256
    run: Name


class Released(Part):
    decision: Sha256
    state: Sha256
    revoked: Sha256 | None = None


class Governance(Part):
    """What is in force."""

    charter: Charter | None = None
    charters: dict[Sha256, Charter] = Field(default_factory=dict)
    """By which open proposals are counted; the one in force too."""
    proposals: dict[Sha256, Item] = Field(default_factory=dict)
    """All there were, in the order of their opening."""
    admitted: dict[Name, Sha256] = Field(default_factory=dict)
    """Who may join, and by which decision."""
    suspended: dict[Name, Suspended] = Field(default_factory=dict)
    expelled: dict[Name, Sha256] = Field(default_factory=dict)
    plans: dict[Sha256, Ratified] = Field(default_factory=dict)
    """Plans and revisions that may be in force."""
    phases: dict[Name, Sha256] = Field(default_factory=dict)
    releases: dict[Name, Released] = Field(default_factory=dict)
    operator: Name | None = None
    pledges: dict[str, Pledged] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """In force, each by what a newer one takes the place of."""
    disputes: dict[Sha256, Name] = Field(default_factory=dict)
    """Each with the member that raised it."""
    counted_from: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Position of the entry from which on votes go by contribution; merges behind it count."""

    @property
    def open(self) -> tuple[Item, ...]:
        """What is still voted on, in the order in which it is decided."""
        found = [each for each in self.proposals.values() if each.outcome is None]
        return tuple(sorted(found, key=lambda each: (each.closes, each.sequence)))

    def overdue(self, at: str) -> Item | None:
        """The proposal that must be decided before anything else happens: its deadline has passed."""
        return next((each for each in self.open if each.closes < at), None)

    def suspension(self, member: str, at: str) -> Suspended | None:
        """The suspension a member is under; it ends by itself."""
        found = self.suspended.get(member)
        return found if found is not None and at < found.until else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Assembly:
    """Members and keys, and what they have decided."""

    ring: KeyRing = field(default_factory=KeyRing)
    governance: Governance = field(default_factory=Governance)

    def members(self) -> tuple[str, ...]:
        """Who is a member now, suspended ones too."""
        return tuple(sorted(self.ring.active))

    def to_json(self) -> dict[str, Any]:
        """The ring's own form, where there is no charter: so it was before there were any."""
        value = self.ring.to_json()
        if self.governance != Governance():
            value[FIELD] = self.governance.model_dump(mode="json")
        return value

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What `to_json` described. Raises `FormatError`."""
        if not isinstance(value, dict):
            raise FormatError("the consortium's state is no object")
        ring = KeyRing.from_json({key: each for key, each in value.items() if key != FIELD})
        try:
            governance = Governance.model_validate_json(canonical.encode(value.get(FIELD, {})))
        except ValidationError as e:
            raise FormatError(f"what was decided is not valid: {explain(e)}") from e
        return cls(ring=ring, governance=governance)


def standing(charter: Charter, member: str, suspended: bool, contribution: int = 0) -> Standing:
    """A member under a charter; one that it does not name has one seat and trains."""
    named = charter.members.get(member)
    if named is None:
        return Standing(member=member, suspended=suspended, contribution=contribution)
    return Standing(
        member=member, seats=named.seats, roles=named.roles, suspended=suspended, contribution=contribution
    )
