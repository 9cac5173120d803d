"""Whether a phase has what it needs: what was pledged and confirmed, held against its thresholds.

Nothing here has a clock. Who is suspended or gone brings nothing; a word counts while its member may confirm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from tapestry.governance.charter import Charter
from tapestry.governance.phases import CONFIRMERS, Phase
from tapestry.governance.pledge import Pledged
from tapestry.governance.resources import Amount, amount
from tapestry.governance.state import Assembly, Governance, standing
from tapestry.governance.words import bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """What one member brings of one resource."""

    member: str
    resource: str
    pledged: Amount
    confirmed: Amount


@dataclass(frozen=True, kw_only=True, slots=True)
class Reckoning:
    """A phase as things stand.

    Args:
        opened: the decision by which it is open.
        rows: by resource, then member.
        members: how many bring something that counts.
        missing: what of the thresholds is not met, a sentence each; none: go.
    """

    name: str
    phase: Phase
    opened: str | None
    rows: tuple[Brought, ...]
    members: int
    missing: tuple[str, ...]

    @property
    def go(self) -> bool:
        return not self.missing

    def total(self, resource: str, column: str) -> Amount:
        """Of all members; `column` is `pledged` or `confirmed`."""
        of = amount(self.phase.needs[resource]).of
        found: Iterable[Amount] = (getattr(row, column) for row in self.rows if row.resource == resource)
        return Amount(of=of, base=sum(each.base for each in found))


def may_confirm(charter: Charter, governance: Governance, member: str, at: str) -> bool:
    """Whether a member's word about others' pledges counts."""
    own = standing(charter, member, governance.suspension(member, at) is not None)
    return not own.suspended and bool({*own.roles} & {*CONFIRMERS})


def reckon(assembly: Assembly, name: str, at: str) -> Reckoning:
    """Of a phase of the charter in force. Raises `KeyError` where there is none of that name."""
    governance = assembly.governance
    charter = governance.charter
    if charter is None or charter.phases is None:
        raise KeyError(name)
    phase = charter.phases[name]
    here = [one for one in assembly.members() if governance.suspension(one, at) is None]
    able = {one for one in here if may_confirm(charter, governance, one, at)}
    rows = tuple(_rows(governance.pledges.values(), name, phase, here, able))
    column = "confirmed" if phase.counts == "confirmed" else "pledged"
    bring = {row.member for row in rows if getattr(row, column).base}
    found = Reckoning(
        name=name, phase=phase, opened=governance.phases.get(name), rows=rows, members=len(bring), missing=()
    )
    missing = []
    for resource, text in sorted(phase.needs.items()):
        have = found.total(resource, column)
        if have.base < amount(text).base:
            missing.append(f"{resource}: {have} of {text} {column}")
    if len(bring) < phase.members:
        missing.append(f"members: {len(bring)} of {phase.members} bring something that is {column}")
    return replace(found, missing=tuple(missing))


def _rows(
    pledges: Iterable[Pledged], name: str, phase: Phase, here: Iterable[str], able: set[str]
) -> Iterable[Brought]:
    sums: dict[tuple[str, str], list[int]] = {}
    present = {*here}
    for each in pledges:
        need = phase.needs.get(each.resource) if each.phase == name else None
        if need is None or each.member not in present or amount(each.amount).of != amount(need).of:
            continue  # of another phase, of nobody here, or of what a changed charter counts no more
        base = amount(each.amount).base
        held = sums.setdefault((each.resource, each.member), [0, 0])
        held[0] += base
        if any(word.stands and word.member in able for word in each.words):
            held[1] += base
    for (resource, member), (pledged, confirmed) in sorted(sums.items()):
        of = amount(phase.needs[resource]).of
        yield Brought(
            member=member,
            resource=resource,
            pledged=Amount(of=of, base=pledged),
            confirmed=Amount(of=of, base=confirmed),
        )


def why_not_open(
    assembly: Assembly, name: str, at: str, *, opening: bool, yes: Fraction | None = None
) -> str | None:
    """Why a decision to open a phase has nothing to do; None where it has.

    A charter without phases asks for nothing. When a vote on it begins, thresholds may still be missed:
    pledges come until its end.

    Args:
        yes: share of all votes that said yes, at the end.
    """
    governance = assembly.governance
    charter = governance.charter
    if name in governance.phases:
        return f"phase {name} is open"
    if charter is None or charter.phases is None:
        return None
    if name not in charter.phases:
        return f"the charter has no phase {name}; it has {', '.join(sorted(charter.phases))}"
    override = charter.phases[name].override
    found = reckon(assembly, name, at)
    if opening or found.go:
        return None
    if override is not None and yes is not None and bound(override).reached(yes):
        return None
    return f"phase {name} is below its thresholds: {'; '.join(found.missing)}"


def phase_of_run(governance: Governance, run: str) -> str | None:
    """The phase that a run belongs to."""
    phases = governance.charter.phases if governance.charter is not None else None
    return next((name for name, each in sorted((phases or {}).items()) if run in each.runs), None)


def still_open(governance: Governance, changed: Charter) -> dict[str, str]:
    """Phases that are open under a changed charter: those that it has, and the one before it had. A name that
    was opened when it asked for nothing is not open where it asks for something."""
    old = governance.charter.phases if governance.charter is not None else None
    if old is None and changed.phases is None:
        return governance.phases
    both = {*(old or {})} & {*(changed.phases or {})}
    return {name: decision for name, decision in governance.phases.items() if name in both}


def still_held(governance: Governance, changed: Charter) -> dict[str, Pledged]:
    """Pledges that are in force under a changed charter: of something, and of what it needs in that unit.
    What has ended comes back under no later charter, and leaves room for others; nobody can bring it back
    either, as each pledge names the charter it was made under."""

    def needed(each: Pledged) -> bool:
        phase = (changed.phases or {}).get(each.phase)
        need = phase.needs.get(each.resource) if phase is not None else None
        given = amount(each.amount)
        return need is not None and given.base > 0 and given.of == amount(need).of

    return {key: each for key, each in governance.pledges.items() if needed(each)}
