"""What may happen to a run. Closed, immutable, replayable: the event log of a run is a list of these."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from tapestry.errors import FormatError
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Part, explain
from tapestry.protocol.messages import Merged, ReasonCode, RoundNumber
from tapestry.protocol.plan import Plan

Milliseconds = Annotated[int, Field(ge=0, le=1 << 53)]
"""Since 1970-01-01 UTC, by the core's clock."""
Merges = Annotated[int, Field(ge=0, le=1 << 40)]


class _Keyed(Part):
    round: RoundNumber
    fragment: FragmentNumber


class RunPlanned(Part):
    type: Literal["run-planned"] = "run-planned"
    plan: Plan


class PlanRevised(Part):
    """Takes effect when the next round opens."""

    type: Literal["plan-revised"] = "plan-revised"
    plan: Plan


class RunStarted(Part):
    type: Literal["run-started"] = "run-started"


class NodeEnrolled(Part):
    type: Literal["node-enrolled"] = "node-enrolled"
    node: Name
    member: Name
    enrolment: Sha256
    """Digest of the signed envelope."""


class NodeWithdrawn(Part):
    """The node is expected no more, from the round in flight on."""

    type: Literal["node-withdrawn"] = "node-withdrawn"
    node: Name
    reason: ReasonCode


class RoundOpened(_Keyed):
    type: Literal["round-opened"] = "round-opened"
    plan: Sha256
    """In force from here on."""
    state: Sha256
    opened_ms: Milliseconds
    deadline_ms: Milliseconds
    nodes: tuple[Name, ...]
    """Expected to contribute."""


class Handed(_Keyed):
    """What a contribution says."""

    node: Name
    member: Name
    contribution: Sha256
    """Digest of the signed envelope."""
    delta: Sha256
    tokens: int
    steps: int
    lag: Annotated[int, Field(ge=0)] = 0
    """Rounds it is late: `round` is the one it enters, not the one it was trained in."""
    received_ms: Milliseconds


class ContributionReceived(Handed):
    """It came with all its bytes."""

    type: Literal["contribution-received"] = "contribution-received"


class ContributionCommitted(Handed):
    """It came, and its bytes are still with its node: nobody can have copied them."""

    type: Literal["contribution-committed"] = "contribution-committed"


class RoundSealed(_Keyed):
    """Nothing more is committed to this round; what was may be revealed."""

    type: Literal["round-sealed"] = "round-sealed"
    deadline_ms: Milliseconds


class ContributionRevealed(Handed):
    """The bytes of one that was committed."""

    type: Literal["contribution-revealed"] = "contribution-revealed"


class ContributionAccepted(_Keyed):
    type: Literal["contribution-accepted"] = "contribution-accepted"
    node: Name
    contribution: Sha256


class ContributionRefused(_Keyed):
    type: Literal["contribution-refused"] = "contribution-refused"
    node: Name
    contribution: Sha256
    reason: ReasonCode


class ContributionLate(_Keyed):
    """Came after its round had closed; it is in no merge."""

    type: Literal["contribution-late"] = "contribution-late"
    node: Name
    contribution: Sha256


class RoundWidened(_Keyed):
    """A round below quorum after its deadline also expects nodes that enrolled meanwhile."""

    type: Literal["round-widened"] = "round-widened"
    nodes: tuple[Name, ...]


class RoundClosed(_Keyed):
    """What will be merged, in merge order, with its weights."""

    type: Literal["round-closed"] = "round-closed"
    merged: tuple[Merged, ...]


class RoundCommitted(_Keyed):
    type: Literal["round-committed"] = "round-committed"
    merges: Merges
    state: Sha256
    base: Sha256
    outer: Sha256 | None


class BaseAttested(Part):
    """A node has repeated the merge that led to the newest base, and found the same."""

    type: Literal["base-attested"] = "base-attested"
    round: RoundNumber
    merges: Merges
    state: Sha256
    node: Name
    member: Name
    attestation: Sha256
    """Digest of the signed envelope."""


class RoundAbandoned(_Keyed):
    """Nothing is merged. `detail` says in words what `reason` cannot."""

    type: Literal["round-abandoned"] = "round-abandoned"
    reason: ReasonCode
    detail: Annotated[str, StringConstraints(max_length=400)] = ""


class ScorePublished(Part):
    """A node's own figure for a shared base, as far as its owner publishes it."""

    type: Literal["score-published"] = "score-published"
    node: Name
    member: Name
    merges: Merges
    state: Sha256
    bits_per_byte: float
    bytes: int
    score: Sha256
    """Digest of the signed envelope."""


class RunFinished(Part):
    type: Literal["run-finished"] = "run-finished"
    state: Sha256


Arrived = ContributionReceived | ContributionRevealed
"""All bytes of a contribution are there."""
ARRIVED: Final = ("contribution-received", "contribution-revealed")

RoundEvent = (
    ContributionReceived
    | ContributionCommitted
    | ContributionRevealed
    | ContributionAccepted
    | ContributionRefused
    | ContributionLate
    | RoundWidened
    | RoundSealed
    | RoundClosed
    | RoundCommitted
    | RoundAbandoned
)
"""Events that change one round already open."""

Event = Annotated[
    RunPlanned
    | PlanRevised
    | RunStarted
    | NodeEnrolled
    | NodeWithdrawn
    | RoundOpened
    | RoundEvent
    | BaseAttested
    | ScorePublished
    | RunFinished,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(type_: str, body: dict[str, Any]) -> Event:
    """The typed event of a log entry. Raises `FormatError`."""
    try:
        return _EVENT.validate_json(canonical.plain_json({"type": type_, **body}))
    except ValidationError as e:
        raise FormatError(f"not a run event: {explain(e)}") from e
