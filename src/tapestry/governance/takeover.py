"""How many members, acting together, could change the charter against all others: at once, or after they have
suspended or expelled the others, who then have no vote on the change.

Each removal is a decision of its own, and all of them can be voted on at the same time, each without the one
it is about. So removals go in rounds: whoever can be removed by the votes there are, is; then it is asked
again. The heaviest members are taken for those who act together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from tapestry.governance.charter import Charter
from tapestry.governance.electorate import Standing, founding, may_propose, shares
from tapestry.governance.tally import Count, verdict
from tapestry.governance.words import Kind

REMOVE: Final[tuple[Kind, ...]] = ("suspend", "expel")


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeover:
    """The fewest members who can change the charter though all others say no, or stay away.

    Args:
        voters: how many have a vote.
        directly: with all others present. None where not even all can.
        after: if they may first suspend or expel others.
        removed: how many, to get there.
        by: the kinds of decision that do it, the first of which is enough for each round.
        exact: false where votes follow contributions; then those who act have made all there are.
    """

    voters: int
    directly: int | None
    after: int | None
    removed: int
    by: tuple[Kind, ...]
    exact: bool

    @property
    def easier(self) -> bool:
        """Whether removing others lets fewer members change the charter."""
        return self.after is not None and (self.directly is None or self.after < self.directly)


def takeover(charter: Charter, standings: Sequence[Standing] | None = None) -> Takeover:
    """`standings`: members as they are now; by default those of the charter."""
    members = founding(charter) if standings is None else standings
    present = sorted(
        (one for one in members if one.seats and not one.suspended),
        key=lambda one: (-one.seats, not may_propose(charter, "change-charter", one), one.member),
    )
    sizes = range(1, len(present) + 1)
    directly = next((n for n in sizes if _changes(charter, *_sides(charter, present, n))), None)
    found: tuple[int | None, int, tuple[Kind, ...]] = (None, 0, ())
    for number in sizes:
        mine, others = _sides(charter, present, number)
        left, by = (others, ()) if number == directly else _removed(charter, mine, others)
        if _changes(charter, mine, left):
            found = (number, len(others) - len(left), by)
            break
    return Takeover(
        voters=len(present),
        directly=directly,
        after=found[0],
        removed=found[1],
        by=found[2],
        exact=charter.voting.weights != "contribution",
    )


def _sides(
    charter: Charter, present: Sequence[Standing], number: int
) -> tuple[list[Standing], list[Standing]]:
    """Those who act together, and the others."""
    mine, others = list(present[:number]), list(present[number:])
    if charter.voting.weights != "contribution":
        return mine, others
    return [replace(one, contribution=1) for one in mine], [replace(one, contribution=0) for one in others]


def _removed(
    charter: Charter, mine: Sequence[Standing], others: Sequence[Standing]
) -> tuple[list[Standing], tuple[Kind, ...]]:
    """Who is left of the others in the end, and the kinds of decision by which the rest have gone."""
    left, by = list(others), list[Kind]()
    while left:
        gone: set[int] = set()  # by seats: who has as many weighs as much
        for seats in sorted({one.seats for one in left}):
            about = next(one for one in left if one.seats == seats)
            for kind in REMOVE:
                if _passes(charter, kind, mine, left, about=about):
                    gone.add(seats)
                    by += [kind] if kind not in by else []
                    break
        if not gone:
            break
        left = [one for one in left if one.seats not in gone]
    return left, tuple(by)


def _changes(charter: Charter, mine: Sequence[Standing], others: Sequence[Standing]) -> bool:
    return _passes(charter, "change-charter", mine, others)


def _passes(
    charter: Charter,
    kind: Kind,
    mine: Sequence[Standing],
    others: Sequence[Standing],
    *,
    about: Standing | None = None,
) -> bool:
    """Whether their yes passes though the others say no, and though they stay away."""
    if not any(may_propose(charter, kind, one) for one in mine):
        return False
    here = [one for one in others if one is not about or not charter.counts_out(kind)]
    weights = shares(charter.voting, [*mine, *here])
    yes, heads, electors = sum((weights[one.member] for one in mine), Fraction(0)), len(mine), len(weights)
    rule = charter.decisions[kind]
    against = Count(yes=yes, no=1 - yes, yes_members=heads, voters=electors, electors=electors)
    alone = Count(yes=yes, no=Fraction(0), yes_members=heads, voters=heads, electors=electors)
    return verdict(rule, against) == verdict(rule, alone) == "passed"
