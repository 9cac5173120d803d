"""What the core answers: where a run stands, and what a round was made of."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import FailFast, Field, field_validator

from tapestry.protocol.canonical import Name, Sha256, encode, sha256
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import (
    Merged,
    Progress,
    PublicKey,
    ReasonCode,
    RoundNumber,
    Time,
)

RunStatus = Literal["planned", "running", "finished"]
Phase = Literal["training", "revealing", "merging", "committed", "abandoned"]
ContributionStatus = Literal["committed", "received", "accepted", "refused", "late"]


class Hello(Message):
    """Who the core is and what it speaks."""

    format: Literal["tapestry.hello"] = "tapestry.hello"
    version: Literal[1] = 1
    consortium: Sha256
    core_key: PublicKey
    release: str
    formats: dict[str, list[int]]
    time: Time


class NodeStanding(Part):
    """One node in the current round."""

    node: Name
    member: Name
    expected: bool
    """Enrolled when the round opened."""
    status: ContributionStatus | None = None
    reason: ReasonCode | None = None
    progress: Progress | None = None


class Head(Part):
    """The newest committed state."""

    merges: Annotated[int, Field(ge=0)]
    state: Sha256
    round: Annotated[int, Field(ge=0)]
    """Round that led here; 0 for the initial state."""
    before: Sha256 | None = None
    """The state that round began with, while it is known."""
    witnessed: bool = True
    """Whether the plan's quorum has repeated the merge."""
    witnesses: Annotated[tuple[Name, ...], FailFast()] = ()
    """Members who have."""


class OpenRound(Part):
    """The round in flight."""

    round: RoundNumber
    fragment: FragmentNumber
    phase: Phase
    state: Sha256
    """The state it trains from."""
    opened_at: Time
    deadline: Time
    quorum: int
    nodes: Annotated[tuple[NodeStanding, ...], FailFast()]


class RunView(Message):
    """Where a run stands, as of `sequence`."""

    format: Literal["tapestry.run-view"] = "tapestry.run-view"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 16 << 20

    run: Name
    status: RunStatus
    waiting_for: str | None
    """Why nothing happens, in words, e.g. too few nodes; None while something does."""
    sequence: Annotated[int, Field(ge=0)]
    plan: Sha256
    """Digest of the plan in force; its bytes are a blob."""
    head: Head
    current: OpenRound | None
    enrolled: Annotated[tuple[Name, ...], FailFast()]

    def gist_for(self, node: str) -> int:
        """A number that changes, but for chance of 2^-52, with all that a node must act on at once.

        What it leaves out (others' contributions on their way, progress) happens once for each node, so
        telling every node of each would cost a core the square of their number.
        """
        at = self.current
        own = next((each for each in at.nodes if each.node == node), None) if at is not None else None
        told = {
            "status": self.status,
            "plan": self.plan,
            "head": self.head.state,
            "enrolled": node in self.enrolled,
            "round": None if at is None else [at.round, at.fragment, at.phase, at.state],
            "own": None if own is None else [own.expected, own.reason, own.status in ("refused", "late")],
        }
        return int(sha256(encode(told))[:13], 16)


class SignedScore(Part):
    node: Name
    member: Name
    merges: int
    bits_per_byte: float
    bytes: int


class RoundRecord(Message):
    """Everything needed to repeat the merge of one committed round."""

    format: Literal["tapestry.round"] = "tapestry.round"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 64 << 20

    run: Name
    round: RoundNumber
    fragment: FragmentNumber
    plan: Sha256
    before: Sha256
    after: Sha256
    merged: Annotated[tuple[Merged, ...], FailFast()]
    envelopes: Annotated[tuple[str, ...], FailFast()]
    """DSSE envelopes (JSON text) of the contributions, in the order of `merged`."""

    @field_validator("merged")
    @classmethod
    def _each_node_once(cls, merged: tuple[Merged, ...]) -> tuple[Merged, ...]:
        if len({one.node for one in merged}) != len(merged):
            raise ValueError("a node stands twice in a merge")
        return merged
