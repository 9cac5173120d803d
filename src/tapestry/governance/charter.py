"""The charter: who takes part, what is decided how, and what members have to each other.

A closed message whose digest the ledger names. All numbers in it are whole or exact fractions, so that every
machine counts the same. What contradicts itself is refused here; what hands control to one member, by
`capture`. Fields in prose: docs/formats/charter.md.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tapestry.governance.contradictions import find
from tapestry.governance.phases import MAX_PHASES, Phase
from tapestry.governance.phases import find as of_phases
from tapestry.governance.words import (
    ABOUT_ONE,
    KINDS,
    BoundText,
    Categories,
    Kind,
    Names,
    PeriodText,
    Role,
    Roles,
    ShareText,
    Title,
    share,
)
from tapestry.protocol.canonical import Name
from tapestry.protocol.message import Message, Part

MAX_MEMBERS = 256
MAX_SEATS = 50
Level = Literal["public", "consortium"]


class Member(Part):
    """[members.NAME]"""

    title: Title = ""
    seats: Annotated[int, Field(ge=0, le=MAX_SEATS)] = 1
    """0 has no vote. More than one counts only where `voting.weights` is `seats`."""
    roles: Annotated[Roles, Field(min_length=1)] = ("member",)


class Voting(Part):
    """[voting]: what a vote weighs. A member casts one ballot, whatever it weighs."""

    weights: Literal["equal", "seats", "contribution"] = "equal"
    cap: ShareText = "1"
    """No member has a larger share of the votes; what is above goes to the others in proportion."""
    equal_part: ShareText | None = None
    """Of `contribution`: the share of all votes that is split equally."""


class Rule(Part):
    """[decisions.KIND]: when a proposal of that kind passes."""

    approval: BoundText
    """How much of the votes must be yes."""
    of: Literal["cast", "all"] = "cast"
    """Of yes and no together, or of the votes of all who may vote."""
    quorum: BoundText
    """How much must have voted, abstentions included."""
    quorum_of: Literal["members", "votes"] = "members"
    yes_members: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = 2
    """Different members who must say yes, whatever they weigh."""
    voting: PeriodText
    """From the opening to the deadline, by the core's clock."""
    interested: Literal["out", "votes"] = "out"
    """Whether the member whom the decision is about votes on it."""
    proposers: Annotated[Roles, Field(min_length=1)] = ("member", "steward")


class Contribution(Part):
    """[contribution]: what counts as having contributed, and what a run plan may say of weights."""

    measure: Literal["rounds", "weight"] = "rounds"
    """Rounds with an accepted contribution, or the weight of these in merges."""
    window_rounds: Annotated[int, Field(ge=1, le=100_000)] = 100
    """How many of the last merges are looked at."""
    influence_cap: ShareText = "1"
    """The largest `merge.influence_cap` that a plan may have."""
    weightings: Annotated[
        tuple[Literal["tokens", "equal", "tokens-per-step"], ...], Field(min_length=1, max_length=3), Names
    ] = ("equal", "tokens", "tokens-per-step")
    """What a plan's `merge.weighting` may be."""


class Entitlements(Part):
    """[entitlements]: who has a right to the base, and to a derivative of its own."""

    rounds: Annotated[int, Field(ge=0, le=100_000)] = 1
    """Rounds with an accepted contribution."""
    weight: ShareText = "0"
    """Share of the accepted weight."""
    needs: Literal["both", "either"] = "both"
    leavers_keep: bool = True
    """Whether a member that has left when a release is voted on has the right that it had earned by then."""


class Data(Part):
    """[data]: categories of datasets that may go into weights that leave a node."""

    base: Annotated[Categories, Field(min_length=1)] = ("open", "unique-open")
    contributed_cpt: Categories = ("open", "unique-open", "controlled")


class Public(Part):
    """[public]: who may see what."""

    charter: Level = "public"
    members: Level = "public"
    plans: Level = "consortium"
    votes: Level = "consortium"
    contributions: Level = "consortium"
    scores: Level = "consortium"
    ledger: Level = "consortium"
    catalog: Level = "consortium"
    releases: Level = "public"


class Gates(Part):
    """[release.gates]: what members' scores in the ledger must show before a release is signed."""

    scored_by: Annotated[int, Field(ge=0, le=MAX_MEMBERS)] = 0
    """Different members whose nodes have published a score of the very base, before the vote ends."""
    worse_by_at_most: ShareText | None = None
    """By so much of its own figure at the release before no node's bits per byte may be higher, on held-out
    text of the same size."""


class Release(Part):
    """[release]: k of n members sign a release."""

    signatures: Annotated[int, Field(ge=1, le=MAX_MEMBERS)]
    holders: Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_MEMBERS), Names]
    gates: Annotated[Gates | None, Field(exclude_if=lambda value: value is None)] = None
    """May be left out, and is not stated then."""


class Deadlines(Part):
    """[deadlines]"""

    appeal: PeriodText = "30 days"
    """From a decision, for an appeal against it."""
    suspension: PeriodText = "90 days"
    """A suspension ends by itself after so long."""
    notice: PeriodText = "30 days"
    """From saying so to having left."""
    withdrawal: PeriodText = "7 days"
    """From withdrawing a dataset to its being out of training everywhere."""


class Charter(Message):
    """The whole of it. Who is admitted later has one seat and the role `member` until a charter names it."""

    format: Literal["tapestry.charter"] = "tapestry.charter"
    version: Literal[1] = 1
    title: Title
    revision: Annotated[int, Field(ge=1, le=1 << 20)]
    members: Annotated[dict[Name, Member], Field(min_length=1, max_length=MAX_MEMBERS)]
    voting: Voting
    decisions: dict[Kind, Rule]
    """One for every kind."""
    contribution: Contribution
    entitlements: Entitlements
    data: Data
    public: Public
    release: Release
    deadlines: Deadlines
    phases: Annotated[
        Annotated[dict[Name, Phase], Field(min_length=1, max_length=MAX_PHASES)] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    """What must be brought before a part of the work begins."""

    @model_validator(mode="after")
    def _holds_together(self) -> Charter:
        missing = [kind for kind in KINDS if kind not in self.decisions]
        if missing:
            raise ValueError(f"decisions.{missing[0]} is needed")
        for fault in (*find(self), *of_phases(self)):
            raise PydanticCustomError(
                "charter",
                "{rule}",
                {"rule": fault.rule, "where": fault.where, "way_out": fault.way_out},
            )
        return self

    def with_role(self, role: Role) -> list[str]:
        """Names in order."""
        return sorted(name for name, member in self.members.items() if role in member.roles)

    @property
    def voters(self) -> list[str]:
        """Members with a seat."""
        return sorted(name for name, member in self.members.items() if member.seats)

    def counts_out(self, kind: Kind) -> bool:
        """Whether a decision of this kind is voted on without the one it is about."""
        return kind in ABOUT_ONE and self.decisions[kind].interested == "out"


def plan_faults(charter: Charter, *, weighting: str, influence_cap: float) -> list[str]:
    """What of a plan's `merge` the charter does not allow, in words; none where it may be put to the vote.

    The plan's cap is the decimal it states, as in `rounds.weights`.
    """
    rules = charter.contribution
    found = []
    if weighting not in rules.weightings:
        allowed = ", ".join(rules.weightings)
        found.append(f"merge.weighting is {weighting}; the charter allows {allowed}")
    if Fraction(repr(influence_cap)) > share(rules.influence_cap):
        found.append(
            f"merge.influence_cap is {influence_cap}; the charter allows {rules.influence_cap} at most"
        )
    return found


def entitled(charter: Charter, *, rounds: int, weight: Fraction) -> bool:
    """Whether so many accepted rounds and such a share of the accepted weight give a right to the base."""
    rules = charter.entitlements
    met = (rounds >= rules.rounds, weight >= share(rules.weight))
    return all(met) if rules.needs == "both" else any(met)
