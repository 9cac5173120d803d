"""The capture check: which member, or which two, could force or block what; and what is refused for it.

Every kind of decision is looked at with everybody present, and, where the one it is about has no vote,
without each member in turn. Members with the same number of seats are alike: one of each sort is worked out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations_with_replacement, product
from typing import Final

from tapestry.errors import CharterError
from tapestry.governance import coalitions
from tapestry.governance.charter import Charter, Rule
from tapestry.governance.coalitions import Hall, hall
from tapestry.governance.contradictions import LEAST_VOTERS, Fault
from tapestry.governance.electorate import Standing, founding, least_cap, may_propose, shares
from tapestry.governance.words import KINDS, Kind, bound, share, text_of

Members = frozenset[str]
FINE: Final = 1000
"""Votes at their worst are counted in whole ones, so many to the smallest share that is named."""


@dataclass(kw_only=True, slots=True)
class Power:
    """Who can do one thing: single members, and pairs of which neither can alone."""

    ones: set[Members] = field(default_factory=set)
    twos: set[Members] = field(default_factory=set)

    def take(self, coalition: Members) -> None:
        (self.ones if len(coalition) == 1 else self.twos).add(coalition)

    def names(self, size: int) -> list[list[str]]:
        """Sorted lists of names, of one or of two members; pairs only of members who cannot alone."""
        if size == 1:
            return sorted(sorted(each) for each in self.ones)
        alone = {name for each in self.ones for name in each}
        return sorted(sorted(each) for each in self.twos if not each & alone)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capture:
    """What one or two members could do about one kind of decision.

    Args:
        electors: how many may vote; where the one it is about may not, without it.
        forces, forces_few: who passes it whatever others do, or when few others vote.
        blocks, blocks_few: who stops it though all others want it, or some who make a quorum.
        unavoidable: blocks that no rule could take away, since two are left to vote.
        to_pass, to_stop: fewest members who can, everybody voting; the fewest of all cases.
        exact: false where it is worked out for the worst case.
    """

    kind: Kind
    electors: int
    forces: Power
    forces_few: Power
    blocks: Power
    blocks_few: Power
    unavoidable: bool
    to_pass: int | None
    to_stop: int | None
    exact: bool
    refused: tuple[Fault, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A vote that could be held: with all, or about a member of one sort who is left out.

    Args:
        sorts: names of each class of the hall; with the one left out, who may be any of its sort.
    """

    hall: Hall
    sorts: tuple[tuple[str, ...], ...]


def check(charter: Charter, standings: Sequence[Standing] | None = None) -> list[Capture]:
    """For every kind of decision. `standings`: members as they are now; by default those of the charter."""
    members = list(founding(charter) if standings is None else standings)
    present = [one for one in members if one.seats and not one.suspended]
    scenes: dict[bool, list[Scene]] = {}
    powers: dict[tuple[object, ...], Powers] = {}
    found = []
    for kind in KINDS:
        rule, leaves_out = charter.decisions[kind], charter.counts_out(kind) and kind != "admit"
        if leaves_out not in scenes:
            scenes[leaves_out] = _scenes(charter, present, leaves_out)
        counted = (leaves_out, rule.approval, rule.of, rule.quorum, rule.quorum_of, rule.yes_members)
        if counted not in powers:
            powers[counted] = _powers(rule, scenes[leaves_out])
        found.append(_capture(charter, kind, members, scenes[leaves_out], powers[counted]))
    return found


def refusals(charter: Charter, found: Sequence[Capture] | None = None) -> list[Fault]:
    """Rules that give one member control alone, each with the way out. None where the charter is accepted."""
    captures = check(charter) if found is None else found
    return [fault for capture in captures for fault in capture.refused] + list(_release(charter))


def accept(charter: Charter) -> None:
    """Raises `CharterError` where a rule gives one member control alone."""
    faults = refusals(charter)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise CharterError(
            f"{faults[0].where}: {faults[0].rule}{more}",
            hint=f"{faults[0].way_out}; tapestry charter check shows all of them",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """What one or two members could do about opening a phase below its thresholds. Nobody alone can force it,
    as nobody can pass `open-phase` alone, nor block it where nobody can block a change of the charter."""

    phase: str
    to_pass: int | None
    forces: Power
    blocks: Power


def overrides(charter: Charter) -> list[Override]:
    """Of each phase that has one, in the order of their names."""
    present = [one for one in founding(charter) if one.seats]
    scenes, found = _scenes(charter, present, False), []
    for name, phase in sorted((charter.phases or {}).items()):
        if phase.override is None:
            continue
        usual = charter.decisions["open-phase"]
        rule = usual.model_copy(update={"approval": phase.override, "of": "all"})
        powers = _powers(rule, scenes)
        to_pass = _least(coalitions.fewest(rule, each.hall, to="pass") for each in scenes)
        found.append(Override(phase=name, to_pass=to_pass, forces=powers.forces, blocks=powers.blocks))
    return found


def _release(charter: Charter) -> Iterator[Fault]:
    release, holders = charter.release, len(charter.release.holders)
    if release.signatures == 1:
        yield Fault(
            where="release.signatures",
            rule=f"each of {', '.join(release.holders)} could sign a release alone",
            way_out="write signatures = 2 or more",
        )
    elif release.signatures == holders:
        yield Fault(
            where="release.signatures",
            rule=f"each of {', '.join(release.holders)} could stop every release by not signing",
            way_out=f"write signatures = {holders - 1}, or name one more holder"
            if holders > LEAST_VOTERS - 1
            else "name a third holder",
        )


def _scenes(charter: Charter, present: list[Standing], leaves_out: bool) -> list[Scene]:
    if not present:
        return []
    scenes = [_scene(charter, present, None)]
    if leaves_out and len(present) > 1:
        alike = {_sort(charter, one): one for one in present}
        scenes += [_scene(charter, present, one) for one in alike.values()]
    return scenes


def _sort(charter: Charter, one: Standing) -> int:
    """Members of one sort weigh the same in every vote."""
    return one.seats if charter.voting.weights == "seats" else 1


def _scene(charter: Charter, present: list[Standing], about: Standing | None) -> Scene:
    electors = [one for one in present if one is not about]
    sorts: dict[int, list[str]] = {}
    for one in present:
        sorts.setdefault(_sort(charter, one), []).append(one.member)
    if charter.voting.weights == "contribution":
        names = tuple(sorts[1])
        return Scene(hall=_worst(charter, len(electors)), sorts=(names, names, names))
    weights = shares(charter.voting, electors)
    share_of = {_sort(charter, one): weights[one.member] for one in electors}
    counts = {sort: len(names) for sort, names in sorts.items()}
    if about is not None:
        counts[_sort(charter, about)] -= 1
    order = sorted(share_of)
    made = hall([(share_of[sort], counts[sort]) for sort in order])
    return Scene(hall=made, sorts=tuple(tuple(sorts[sort]) for sort in order))


def _worst(charter: Charter, electors: int) -> Hall:
    """Votes by contribution change with every merge: as many members at the cap as there can be, one with
    what is left, the others next to nothing."""
    equal = share(charter.voting.equal_part or "1")
    largest = min(least_cap(charter.voting, electors), equal / electors + 1 - equal)
    at_cap = min(int(1 / largest), electors)
    rest = 1 - at_cap * largest
    total = largest.denominator * FINE
    some = (1,) if at_cap < electors else ()
    return Hall(
        weights=(int(largest * total), *(int(rest * total) for _ in some), *(0 for _ in some)),
        counts=(at_cap, *some, *(electors - at_cap - 1 for _ in some)),
        total=total,
        exact=False,
    )


def _groups(scene: Scene) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each coalition of one or two that differs from others: what its members weigh, and of which sorts."""
    weights, counts = scene.hall.weights, scene.hall.counts
    there = [at for at, count in enumerate(counts) if count]
    for at in there:
        yield (weights[at],), (at,)
    for one, two in combinations_with_replacement(there, 2):
        if one != two or counts[one] > 1:
            yield (weights[one], weights[two]), (one, two)


def _who(scene: Scene, sorts: tuple[int, ...]) -> Iterator[Members]:
    """Everybody who may be that coalition."""
    for names in product(*(scene.sorts[at] for at in sorts)):
        if len(set(names)) == len(sorts):
            yield frozenset(names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Powers:
    """What coalitions can do by their votes. `avoidable`: blocks where more than two vote."""

    forces: Power
    forces_few: Power
    blocks: Power
    blocks_few: Power
    avoidable: Power


def _powers(rule: Rule, scenes: list[Scene]) -> Powers:
    found = Powers(forces=Power(), forces_few=Power(), blocks=Power(), blocks_few=Power(), avoidable=Power())
    named: set[tuple[int, tuple[str, ...]]] = set()  # a power, and sorts whose members have it already
    for scene in scenes:
        for weights, sorts in _groups(scene):
            can_stop = coalitions.blocks(rule, scene.hall, weights)
            ways = (
                (found.forces, coalitions.forces(rule, scene.hall, weights)),
                (found.forces_few, coalitions.forces_when_few_vote(rule, scene.hall, weights)),
                (found.blocks, can_stop),
                (found.blocks_few, coalitions.blocks_when_few_vote(rule, scene.hall, weights)),
                (found.avoidable, can_stop and scene.hall.electors >= LEAST_VOTERS),
            )
            who = tuple(scene.sorts[at][0] for at in sorts)
            able = [power for power, can in ways if can and (id(power), who) not in named]
            named.update((id(power), who) for power in able)
            for each in _who(scene, sorts) if able else ():
                for power in able:
                    power.take(each)
    return found


def _capture(
    charter: Charter, kind: Kind, members: list[Standing], scenes: list[Scene], powers: Powers
) -> Capture:
    rule = charter.decisions[kind]
    avoidable = powers.avoidable
    blocks = Power(ones=set(powers.blocks.ones), twos=set(powers.blocks.twos))
    proposers = frozenset(one.member for one in members if may_propose(charter, kind, one))
    if 0 < len(proposers) <= 2:
        blocks.take(proposers)
    halls = [scene.hall for scene in scenes]
    found = Capture(
        kind=kind,
        electors=min((each.electors for each in halls), default=0),
        forces=powers.forces,
        forces_few=powers.forces_few,
        blocks=blocks,
        blocks_few=powers.blocks_few,
        unavoidable=bool(blocks.ones) and not avoidable.ones and len(proposers) != 1,
        to_pass=_least(coalitions.fewest(rule, each, to="pass") for each in halls),
        to_stop=_least(coalitions.fewest(rule, each, to="stop") for each in halls),
        exact=all(each.exact for each in halls),
        refused=(),
    )
    refused = tuple(_refused(charter, found, avoidable, proposers, scenes))
    return replace(found, refused=refused)


def _least(numbers: Iterator[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _some(power: Power) -> str:
    names = [each[0] for each in power.names(1)]
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return f"each of {', '.join(names[:3])}{more}"


def _refused(
    charter: Charter, found: Capture, avoidable: Power, proposers: Members, scenes: list[Scene]
) -> Iterator[Fault]:
    kind, rule = found.kind, charter.decisions[found.kind]
    where = f"decisions.{kind}"
    if found.forces.ones or found.forces_few.ones:
        always = bool(found.forces.ones)
        yield Fault(
            where=f"{where}.yes_members" if rule.yes_members < 2 else f"{where}.approval",
            rule=f"{_some(found.forces if always else found.forces_few)} could pass {kind} alone"
            + ("" if always else " when few others vote"),
            way_out="write yes_members = 2 or more",
        )
    elif rule.yes_members < 2:
        yield Fault(
            where=f"{where}.yes_members",
            rule=f"one yes would pass {kind} as soon as all others are suspended or have no vote on it",
            way_out="write yes_members = 2 or more",
        )
    if len(proposers) == 1:
        (name,) = proposers
        yield Fault(
            where=f"{where}.proposers",
            rule=f"{name} alone may propose {kind}, so it could block it by proposing nothing",
            way_out="let another role propose it too",
        )
    if avoidable.ones:
        yield _veto(charter, found, avoidable, scenes)


def _veto(charter: Charter, found: Capture, avoidable: Power, scenes: list[Scene]) -> Fault:
    """The rule that gives a single member a veto, by what would take it away."""
    kind, rule = found.kind, charter.decisions[found.kind]
    where, largest, electors = f"decisions.{kind}", Fraction(0), 0
    for scene in scenes:
        heaviest = Fraction(max(scene.hall.weights), scene.hall.total)
        if scene.hall.electors >= LEAST_VOTERS and heaviest > largest:
            largest, electors = heaviest, scene.hall.electors
    rest = 1 - largest
    everybody = max(scene.hall.electors for scene in scenes)
    without = f" (without the member it is about, {electors} vote)" if electors < everybody else ""
    if rule.yes_members > electors - 1:
        field, way = "yes_members", f"write yes_members = {electors - 1} or less"
    elif rest > Fraction(1, 2):
        enough = f'write "at least {text_of(rest)}" or less'
        by_votes = rule.quorum_of == "votes"
        field = "quorum" if bound(rule.approval).reached(rest) else "approval"
        way = enough
        if field == "quorum" and not by_votes:
            way = f'write "at least {text_of(Fraction(electors - 1, electors))}" or less'
    else:
        field, way = (
            "approval",
            "lower voting.cap, or give others more seats, so that nobody has half the votes",
        )
    return Fault(
        where=f"{where}.{field}",
        rule=f"{_some(avoidable)} could block {kind} alone, though all others say yes{without}",
        way_out=way,
    )
