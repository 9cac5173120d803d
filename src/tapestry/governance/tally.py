"""The count of a vote: charter, electorate and ballots in; the outcome with every number that led to it.

Pure and exact; the order in which ballots are given changes nothing. Of a member's ballots that came in time
the last one counts (by its position in the ledger), so that a reason given by another may change a mind. An
abstention counts for the quorum and for nothing else. The rule in prose: docs/formats/charter.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import Field

from tapestry.errors import FormatError
from tapestry.governance.charter import Charter, Rule
from tapestry.governance.electorate import Barred, Standing, barred, by_name, shares
from tapestry.governance.words import ABOUT_ONE, BoundText, ExactText, Kind, bound, seconds, text_of
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.clock import add_seconds, parse_time
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

Choice = Literal["yes", "no", "abstain"]
Verdict = Literal["passed", "no-quorum", "too-few-yes", "not-approved"]
SetAside = Literal["late", "early", "replaced", "unknown", "no-seat", "suspended", "interested"]
Position = Annotated[int, Field(ge=1, le=(1 << 53) - 1)]
_CHOICES: Final = frozenset(("yes", "no", "abstain"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is voted on.

    Args:
        about: the party the decision is about; given for the kinds that are about one, and for no other.
        opened: when voting began, by the core's clock.
    """

    kind: Kind
    about: str | None = None
    opened: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """One ballot, as the ledger has it; its signature has been verified before.

    Args:
        at: when the core received it.
        sequence: its position in the ledger, which no other ballot has.
    """

    member: str
    choice: Choice
    at: str
    sequence: int


class Elector(Part):
    member: Name
    share: ExactText


class LeftOut(Part):
    """A member who has no vote on this decision."""

    member: Name
    reason: Barred


class Vote(Part):
    """A ballot that counted."""

    member: Name
    choice: Choice
    sequence: Position


class Discarded(Part):
    """A ballot that did not count."""

    member: Name
    sequence: Position
    reason: SetAside


class Reached(Part):
    """A threshold and what was reached of it."""

    needed: BoundText
    of: Literal["cast", "all", "members", "votes"]
    reached: ExactText


class Tally(Message):
    """What a vote came to. Lists are sorted, by member or by sequence."""

    format: Literal["tapestry.tally"] = "tapestry.tally"
    version: Literal[1] = 1
    charter: Sha256
    kind: Kind
    about: Name | None
    opened: Time
    closes: Time
    electors: tuple[Elector, ...]
    left_out: tuple[LeftOut, ...]
    votes: tuple[Vote, ...]
    discarded: tuple[Discarded, ...]
    yes: ExactText
    no: ExactText
    abstain: ExactText
    quorum: Reached
    approval: Reached
    yes_members: int
    yes_members_needed: int
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Votes as shares of all electors' votes, and heads."""

    yes: Fraction
    no: Fraction
    abstain: Fraction = Fraction(0)
    yes_members: int
    voters: int
    electors: int

    def turnout(self, rule: Rule) -> Fraction:
        """What the quorum is measured by."""
        if rule.quorum_of == "votes":
            return self.yes + self.no + self.abstain
        return Fraction(self.voters, self.electors) if self.electors else Fraction(0)

    def approval(self, rule: Rule) -> Fraction:
        """What the approval is measured by; 0 where nobody said yes or no."""
        if rule.of == "all":
            return self.yes
        cast = self.yes + self.no
        return self.yes / cast if cast else Fraction(0)


def verdict(rule: Rule, count: Count) -> Verdict:
    """The only place where a vote passes or fails. One more yes never turns what passed into what failed."""
    if not count.voters or not bound(rule.quorum).reached(count.turnout(rule)):
        return "no-quorum"
    if count.yes_members < rule.yes_members:
        return "too-few-yes"
    return "passed" if bound(rule.approval).reached(count.approval(rule)) else "not-approved"


def tally(
    charter: Charter, question: Question, standings: Sequence[Standing], ballots: Iterable[Ballot]
) -> Tally:
    """Count a vote. It is final once the core's clock has passed `closes`, and not before.

    Args:
        standings: all members as they stood when the proposal was opened.
        ballots: all there are, in any order.

    Raises:
        FormatError: the question does not fit its kind, or the input states a thing twice.
    """
    _check(question)
    members = by_name(standings)
    why = {name: barred(charter, question.kind, question.about, one) for name, one in members.items()}
    weights = shares(charter.voting, [one for name, one in members.items() if why[name] is None])
    rule = charter.decisions[question.kind]
    closes = add_seconds(question.opened, seconds(rule.voting))
    counted, discarded = _sort(ballots, why, question.opened, closes)
    count = _count(counted.values(), weights)
    return Tally(
        charter=charter.digest,
        kind=question.kind,
        about=question.about,
        opened=question.opened,
        closes=closes,
        electors=tuple(Elector(member=name, share=text_of(each)) for name, each in sorted(weights.items())),
        left_out=tuple(LeftOut(member=name, reason=each) for name, each in why.items() if each is not None),
        votes=tuple(
            Vote(member=name, choice=each.choice, sequence=each.sequence)
            for name, each in sorted(counted.items())
        ),
        discarded=discarded,
        yes=text_of(count.yes),
        no=text_of(count.no),
        abstain=text_of(count.abstain),
        quorum=Reached(needed=rule.quorum, of=rule.quorum_of, reached=text_of(count.turnout(rule))),
        approval=Reached(needed=rule.approval, of=rule.of, reached=text_of(count.approval(rule))),
        yes_members=count.yes_members,
        yes_members_needed=rule.yes_members,
        verdict=verdict(rule, count),
    )


def _check(question: Question) -> None:
    if (question.about is not None) != (question.kind in ABOUT_ONE):
        wants = "one party, which is not named" if question.about is None else "no single party"
        raise FormatError(f"a decision to {question.kind} is about {wants}")


def _sort(
    ballots: Iterable[Ballot], why: dict[str, Barred | None], opened: str, closes: str
) -> tuple[dict[str, Ballot], tuple[Discarded, ...]]:
    """The ballot of each member that counts, and those that do not with the first reason that applies."""
    counted: dict[str, Ballot] = {}
    discarded: list[Discarded] = []

    def put_aside(ballot: Ballot, reason: SetAside) -> None:
        discarded.append(Discarded(member=ballot.member, sequence=ballot.sequence, reason=reason))

    last = 0
    for ballot in sorted(ballots, key=lambda one: one.sequence):
        if ballot.sequence == last:
            raise FormatError(f"two ballots have position {last} of the ledger")
        last = ballot.sequence
        if ballot.choice not in _CHOICES:
            raise FormatError(f"{str(ballot.choice)[:40]!r} is no ballot: yes, no or abstain")
        parse_time(ballot.at)
        if ballot.member not in why:
            put_aside(ballot, "unknown")
        elif (reason := why[ballot.member]) is not None:
            put_aside(ballot, reason)
        elif ballot.at < opened or ballot.at > closes:  # such times sort as text
            put_aside(ballot, "early" if ballot.at < opened else "late")
        else:
            if (before := counted.get(ballot.member)) is not None:
                put_aside(before, "replaced")
            counted[ballot.member] = ballot
    return counted, tuple(sorted(discarded, key=lambda one: one.sequence))


def _count(counted: Iterable[Ballot], weights: dict[str, Fraction]) -> Count:
    sums = {"yes": Fraction(0), "no": Fraction(0), "abstain": Fraction(0)}
    yes_members = voters = 0
    for ballot in counted:
        sums[ballot.choice] += weights[ballot.member]
        voters += 1
        yes_members += ballot.choice == "yes"
    return Count(
        yes=sums["yes"],
        no=sums["no"],
        abstain=sums["abstain"],
        yes_members=yes_members,
        voters=voters,
        electors=len(weights),
    )
