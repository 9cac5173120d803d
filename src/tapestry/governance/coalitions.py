"""What a few who act together can do in one vote, by weights alone: force it, or block it.

Votes are whole numbers here (the shares over their common denominator). A *coalition* is given by what its
members weigh. Two questions are asked of it, each twice:

- always: it says yes and passes whatever the others do; or it stops what all others want.
- when few vote: the same for some attendance of others that makes a quorum. For blocking, staying away does
  not count here, since whoever leaves a vote that has just its quorum ends it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

from tapestry.governance.charter import Rule
from tapestry.governance.tally import Count, verdict
from tapestry.governance.words import bound

MAX_TOTAL: Final = 1 << 16
MAX_WORK: Final = 1 << 22
"""Steps of a search for attendances; beyond, any attendance is taken to be possible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hall:
    """The electors of one vote.

    Args:
        weights: whole votes of each, by class; all electors of a class weigh the same.
        counts: how many are in each class.
        exact: false where attendances are too many to list, or weights are a worst case: any sum of votes
            of the others is then taken to be possible, so that more is found, never less.
    """

    weights: tuple[int, ...]
    counts: tuple[int, ...]
    total: int
    exact: bool

    @property
    def electors(self) -> int:
        return sum(self.counts)


def hall(classes: Sequence[tuple[Fraction, int]]) -> Hall:
    """From the share of one elector of each class, and how many they are."""
    total = math.lcm(*(each.denominator for each, _ in classes))
    weights = tuple(int(each * total) for each, _ in classes)
    common = math.gcd(total, *weights)
    counts = tuple(count for _, count in classes)
    electors, kinds = sum(counts), len(classes)
    work = electors * electors * kinds * kinds
    return Hall(
        weights=tuple(weight // common for weight in weights),
        counts=counts,
        total=total // common,
        exact=total // common <= MAX_TOTAL and work <= MAX_WORK,
    )


def _passes(rule: Rule, hall: Hall, *, yes: int, no: int, yes_members: int, voters: int) -> bool:
    count = Count(
        yes=Fraction(yes, hall.total),
        no=Fraction(no, hall.total),
        yes_members=yes_members,
        voters=voters,
        electors=hall.electors,
    )
    return verdict(rule, count) == "passed"


def forces(rule: Rule, hall: Hall, coalition: Sequence[int]) -> bool:
    """Whether its yes passes whatever the others do.

    The others can say no, which counts against the approval, or stay away, which counts against the quorum;
    what does neither, or some of each, hinders less than one of the two.
    """
    mine, heads = sum(coalition), len(coalition)
    against = _passes(rule, hall, yes=mine, no=hall.total - mine, yes_members=heads, voters=hall.electors)
    return against and _passes(rule, hall, yes=mine, no=0, yes_members=heads, voters=heads)


def blocks(rule: Rule, hall: Hall, coalition: Sequence[int]) -> bool:
    """Whether it stops what all others say yes to, by no or by staying away."""
    mine = sum(coalition)
    yes, others = hall.total - mine, hall.electors - len(coalition)
    with_no = _passes(rule, hall, yes=yes, no=mine, yes_members=others, voters=hall.electors)
    return not with_no or not _passes(rule, hall, yes=yes, no=0, yes_members=others, voters=others)


def forces_when_few_vote(rule: Rule, hall: Hall, coalition: Sequence[int]) -> bool:
    """Whether its yes passes against the no of some others who make a quorum with it."""
    mine, heads = sum(coalition), len(coalition)
    for voters, no in _attendances(rule, hall, coalition, least=0):
        if _passes(rule, hall, yes=mine, no=no, yes_members=heads, voters=heads + voters):
            return True
    return False


def blocks_when_few_vote(rule: Rule, hall: Hall, coalition: Sequence[int]) -> bool:
    """Whether its no stops the yes of some others who make a quorum with it, and its yes would not."""
    mine, heads = sum(coalition), len(coalition)
    least = bound(rule.approval).least(hall.total) - mine if rule.of == "all" else 0
    for voters, yes in _attendances(rule, hall, coalition, least=least):
        both, one = heads + voters, voters
        if _passes(rule, hall, yes=mine + yes, no=0, yes_members=both, voters=both) and not _passes(
            rule, hall, yes=yes, no=mine, yes_members=one, voters=both
        ):
            return True
    return False


def _attendances(
    rule: Rule, hall: Hall, coalition: Sequence[int], *, least: int
) -> Iterable[tuple[int, int]]:
    """Heads and votes of others who make a quorum with the coalition, `least` votes or more.

    For each number of heads the fewest votes: what few others can be made to pass or fail by, more cannot.
    Heads beyond the largest number that a rule asks for are counted as that number.
    """
    quorum, mine, heads = bound(rule.quorum), sum(coalition), len(coalition)
    asked = quorum.least(hall.electors) if rule.quorum_of == "members" else 0
    if rule.quorum_of == "votes":
        least = max(least, quorum.least(hall.total) - mine)
    most = min(max(rule.yes_members, asked), hall.electors - heads)
    for number in range(max(0, asked - heads), most + 1):
        votes = _fewest(hall, tuple(sorted(coalition)), number, most, max(0, least))
        if votes is not None:
            yield number, votes


def _fewest(hall: Hall, coalition: tuple[int, ...], number: int, most: int, least: int) -> int | None:
    """The smallest sum of votes, `least` or more, of `number` others; of more too where that is `most`."""
    if not hall.exact:
        room = hall.total - sum(coalition)
        if number == 0:
            return 0 if least == 0 else None
        return least if least <= room else None
    sums = _sums(hall.weights, hall.counts, coalition, most)[number] >> least
    return least + (sums & -sums).bit_length() - 1 if sums else None


@lru_cache(maxsize=256)
def _sums(
    weights: tuple[int, ...], counts: tuple[int, ...], coalition: tuple[int, ...], most: int
) -> tuple[int, ...]:
    """For each number of others up to `most` (the last: or more), the sums their votes can have: bit k of the
    whole number is set where some of them weigh k together."""
    inside = Counter(coalition)
    found = [1] + [0] * most
    for weight, count in zip(weights, counts, strict=True):
        taken = min(inside[weight], count)
        inside[weight] -= taken
        for _ in range(count - taken):
            found[most] |= found[most] << weight
            for number in range(most - 1, -1, -1):
                found[number + 1] |= found[number] << weight
    return tuple(found)


def fewest(rule: Rule, hall: Hall, *, to: str) -> int | None:
    """How many members at least it takes to pass a vote in which everybody votes, or to stop it (`pass`,
    `stop`): the heaviest together. None where all of them cannot."""
    ordered = sorted(
        (weight for weight, count in zip(hall.weights, hall.counts, strict=True) for _ in range(count)),
        reverse=True,
    )
    for number in range(1, len(ordered) + 1):
        group = ordered[:number]
        mine, all_heads = sum(group), hall.electors
        if to == "stop":
            done = blocks(rule, hall, group)
        else:
            done = _passes(rule, hall, yes=mine, no=hall.total - mine, yes_members=number, voters=all_heads)
        if done:
            return number
    return None
