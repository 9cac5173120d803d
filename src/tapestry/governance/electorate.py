"""Who may vote on a decision, and what each vote weighs: exact shares that add up to 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tapestry.errors import FormatError
from tapestry.governance.charter import Charter, Voting
from tapestry.governance.words import Kind, Role, share
from tapestry.rounds.weights import capped

Barred = Literal["no-seat", "suspended", "interested"]
"""Why a member does not vote on a decision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A member as the ledger has it when a proposal is opened.

    Args:
        contribution: by the charter's measure: accepted rounds, or accepted weight in any whole unit.
    """

    member: str
    seats: int = 1
    roles: tuple[Role, ...] = ("member",)
    suspended: bool = False
    contribution: int = 0


def founding(charter: Charter) -> tuple[Standing, ...]:
    """The members a charter names, nobody suspended, nothing contributed yet."""
    return tuple(
        Standing(member=name, seats=member.seats, roles=member.roles)
        for name, member in sorted(charter.members.items())
    )


def barred(charter: Charter, kind: Kind, about: str | None, one: Standing) -> Barred | None:
    """Why this member has no vote on a decision of this kind, about that party; None for who has one."""
    if not one.seats:
        return "no-seat"
    if one.suspended:
        return "suspended"
    return "interested" if charter.counts_out(kind) and one.member == about else None


def by_name(standings: Iterable[Standing]) -> dict[str, Standing]:
    """Raises `FormatError` where a member stands twice or has less than nothing."""
    found: dict[str, Standing] = {}
    for one in standings:
        if one.member in found:
            raise FormatError(f"{one.member} stands twice in the electorate")
        if one.seats < 0 or one.contribution < 0:
            raise FormatError(f"{one.member} has less than nothing in the electorate")
        found[one.member] = one
    return dict(sorted(found.items()))


def shares(voting: Voting, electors: Sequence[Standing]) -> dict[str, Fraction]:
    """Each elector's share of the votes; they add up to 1, and none is above the cap.

    Where electors are so few that their votes could not add up under the cap, it is 1 / electors.
    """
    if not electors:
        return {}
    count = len(electors)
    if voting.weights == "seats":
        amounts = {one.member: Fraction(one.seats) for one in electors}
    elif voting.weights == "contribution":
        equal = share(voting.equal_part or "1")
        total = sum(one.contribution for one in electors)
        amounts = {
            one.member: equal / count + (1 - equal) * Fraction(one.contribution, total)
            if total
            else Fraction(1)
            for one in electors
        }
    else:
        amounts = {one.member: Fraction(1) for one in electors}
    whole = sum(amounts.values())
    return capped({name: amount / whole for name, amount in amounts.items()}, least_cap(voting, count))


def least_cap(voting: Voting, electors: int) -> Fraction:
    """The cap in force among so many electors."""
    return max(share(voting.cap), Fraction(1, electors))


def may_propose(charter: Charter, kind: Kind, one: Standing) -> bool:
    """Whether this member may put such a decision to the vote. A suspended one may appeal, and no more."""
    if one.suspended and kind != "hear-appeal":
        return False
    return bool(set(one.roles) & set(charter.decisions[kind].proposers))
