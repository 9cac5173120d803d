"""What members sign about what they bring: a pledge, and another member's word that it is real.

Each is a closed message in an envelope, signed by a vote key. A new pledge takes the place of the one before
it for the same thing. Formats in prose: docs/formats/pledges.md.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from tapestry.governance.proposal import Reason
from tapestry.governance.resources import Resource
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

MAX_NUMBER: Final = 100
"""Pledges of one member for one thing, and words about one pledge: a plan may change, but not without end."""
MAX_HELD: Final = 64
"""Pledges of one member that are in force."""
MAX_WORDS: Final = 256
"""Pledges in force that one member has a word about: the state of a consortium is kept whole."""
MAX_LISTED: Final = 1 << 16
"""Of all members: a longer list is none that is read."""
Number = Annotated[int, Field(ge=1, le=MAX_NUMBER)]


class Pledge(Message):
    """A member brings so much to a phase; signed by its vote key. Its digest names it."""

    format: Literal["tapestry.pledge"] = "tapestry.pledge"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    charter: Sha256
    """In force when it was written: what the phase is stands there."""
    phase: Name
    resource: Resource
    amount: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,64}$")]
    """`2000 accelerator-hours`. Nothing of it, `0 accelerator-hours`, takes an earlier pledge back."""
    dataset: Name | None
    """Of `data.LANG`: which of the member's datasets, by its name in the catalog."""
    number: Number
    """One more with each pledge of this member for this phase, resource and dataset, so that nobody can put
    an older one behind a newer one."""
    text: Reason
    """From when to when, and on which conditions; for people."""


class Confirmation(Message):
    """A member has looked whether another's pledge is real; signed by its vote key. The last one counts."""

    format: Literal["tapestry.pledge-confirmation"] = "tapestry.pledge-confirmation"
    version: Literal[1] = 1
    consortium: Sha256
    member: Name
    pledge: Sha256
    number: Number
    """One more with each word of this member about this pledge."""
    stands: bool
    """False takes an earlier word back."""
    text: Reason
    """What was looked at."""


class Confirmed(Part):
    """A member's newest word about a pledge."""

    member: Name
    stands: bool
    number: int
    confirmation: Sha256
    """Digest of the message."""
    at: Time
    sequence: int


class Pledged(Part):
    """A pledge in force."""

    pledge: Sha256
    member: Name
    phase: Name
    resource: Resource
    amount: str
    dataset: Name | None
    number: int
    at: Time
    sequence: int
    words: tuple[Confirmed, ...] = ()
    """By member, the newest of each."""

    @property
    def key(self) -> str:
        return key_of(self)

    def word(self, member: str) -> Confirmed | None:
        return next((each for each in self.words if each.member == member), None)


def key_of(said: Pledge | Pledged) -> str:
    """What a newer pledge takes the place of: all of the same key."""
    return "/".join((said.phase, said.member, said.resource, said.dataset or ""))
