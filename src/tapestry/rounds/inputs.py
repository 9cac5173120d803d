"""What may be put to the round machine. Each may come twice; the second time changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Score
from tapestry.protocol.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The operator starts the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Revise:
    """The operator gives a new revision of the plan."""

    plan: Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrol:
    """A node takes part from the next round on."""

    node: str
    member: str
    plan: str
    enrolment: str

    @classmethod
    def of(cls, said: Enrolment, digest: str) -> Enrol:
        """What an envelope of that digest says."""
        return cls(node=said.node, member=said.member, plan=said.plan, enrolment=digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdraw:
    """A node takes part no more (left, or its key was revoked)."""

    node: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribute:
    """A node's signed contribution arrived, with all its bytes unless they come when the round is sealed."""

    round: int
    fragment: int
    node: str
    member: str
    plan: str
    state: str
    contribution: str
    delta: str
    tokens: int
    steps: int

    @classmethod
    def of(cls, said: Contribution, digest: str) -> Contribute:
        """What an envelope of that digest says."""
        return cls(
            round=said.round,
            fragment=said.fragment,
            node=said.node,
            member=said.member,
            plan=said.plan,
            state=said.state,
            contribution=digest,
            delta=said.delta,
            tokens=said.tokens,
            steps=said.steps,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reveal:
    """All bytes of a contribution arrived that was committed."""

    node: str
    contribution: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """The bytes of a contribution were looked at; `reason` is None when they are good."""

    round: int
    fragment: int
    node: str
    contribution: str
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeDone:
    """The merge of a closed round was computed."""

    round: int
    fragment: int
    state: str
    base: str
    outer: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeFailed:
    """The merge of a closed round cannot be had, whoever repeats it; `detail` says why in words."""

    round: int
    fragment: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Attest:
    """A node has repeated the newest merge and signed what it found."""

    node: str
    member: str
    round: int
    merges: int
    state: str
    attestation: str

    @classmethod
    def of(cls, said: Attestation, digest: str) -> Attest:
        """What an envelope of that digest says."""
        return cls(
            node=said.node,
            member=said.member,
            round=said.round,
            merges=said.merges,
            state=said.state,
            attestation=digest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """A node publishes its score of a shared base."""

    node: str
    member: str
    merges: int
    state: str
    bits_per_byte: float
    bytes: int
    score: str

    @classmethod
    def of(cls, said: Score, digest: str) -> Publish:
        """What an envelope of that digest says."""
        return cls(
            node=said.node,
            member=said.member,
            merges=said.merges,
            state=said.state,
            bits_per_byte=said.bits_per_byte,
            bytes=said.bytes,
            score=digest,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """Time passed."""


Input = (
    Start
    | Revise
    | Enrol
    | Withdraw
    | Contribute
    | Reveal
    | Screened
    | MergeDone
    | MergeFailed
    | Attest
    | Publish
    | Tick
)
