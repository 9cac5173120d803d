"""Phases of a charter: what members must bring before a part of the work begins."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, Field

from tapestry.governance.contradictions import Fault
from tapestry.governance.resources import AmountText, Resource, amount, example, fits
from tapestry.governance.words import Bound, BoundText, Role, Title, bound
from tapestry.protocol.canonical import Name
from tapestry.protocol.message import Part

if TYPE_CHECKING:
    from tapestry.governance.charter import Charter

MAX_PHASES: Final = 16
CONFIRMERS: Final[tuple[Role, ...]] = ("steward", "auditor")
"""Roles that confirm what others have pledged."""
LEAST_CONFIRMERS: Final = 3
"""With two, each alone could keep the other's pledges from being confirmed."""


def _runs(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("names a run twice")
    return tuple(sorted(values))


class Phase(Part):
    """[phases.NAME]"""

    title: Title = ""
    needs: Annotated[dict[Resource, AmountText], Field(min_length=1, max_length=64)]
    """How much of each resource all members together must bring."""
    members: Annotated[int, Field(ge=1, le=256)] = 1
    """Different members that must bring something of it."""
    counts: Literal["confirmed", "pledged"] = "confirmed"
    """Whether what is pledged counts, or only what another member has confirmed."""
    runs: Annotated[tuple[Name, ...], Field(max_length=64), AfterValidator(_runs)] = ()
    """Runs that start only once it is open."""
    override: BoundText | None = None
    """How much of all votes opens it below its thresholds; None: nothing does."""


def find(charter: Charter) -> Iterator[Fault]:
    """What contradicts itself, or can never be met, or leaves it to one member alone."""
    holds: dict[str, str] = {}
    for name, phase in sorted((charter.phases or {}).items()):
        where = f"phases.{name}"
        yield from _needs(phase, where)
        for run in phase.runs:
            if run in holds:
                yield Fault(
                    where=f"{where}.runs",
                    rule=f"run {run} belongs to phase {holds[run]} and to phase {name}",
                    way_out="name it in one of the two",
                )
            holds[run] = name
        if phase.members > len(charter.members):
            yield Fault(
                where=f"{where}.members",
                rule=f"{phase.members} members must bring something, but there are {len(charter.members)}",
                way_out=f"write members = {len(charter.members)} or less",
            )
        yield from _confirmers(charter, phase, where)
        yield from _override(charter, phase, where)


def _needs(phase: Phase, where: str) -> Iterator[Fault]:
    for resource, text in sorted(phase.needs.items()):
        given = amount(text)
        if not fits(resource, given):
            yield Fault(
                where=f"{where}.needs.{resource}",
                rule=f"{text} is no amount of {resource}",
                way_out=example(resource),
            )
        elif not given.base:
            yield Fault(
                where=f"{where}.needs.{resource}",
                rule=f"a need of {text} is always met",
                way_out="leave it out, or write more",
            )


def _confirmers(charter: Charter, phase: Phase, where: str) -> Iterator[Fault]:
    able = sorted({name for role in CONFIRMERS for name in charter.with_role(role)})
    if phase.counts != "confirmed" or len(able) >= LEAST_CONFIRMERS:
        return
    who = f"only {' and '.join(able)} may" if able else "nobody may"
    yield Fault(
        where=f"{where}.counts",
        rule=f"{who} confirm what is pledged, and nobody confirms its own: one member alone could keep "
        "a phase shut by confirming nothing",
        way_out=f'give {LEAST_CONFIRMERS} members the role steward or auditor, or write counts = "pledged"',
    )


def _override(charter: Charter, phase: Phase, where: str) -> Iterator[Fault]:
    if phase.override is None:
        return
    given, usual = bound(phase.override), charter.decisions["open-phase"]
    if _level(given) <= _level(bound(usual.approval)):
        yield Fault(
            where=f"{where}.override",
            rule=f'"{phase.override}" of all votes is no more than what opens a phase anyway '
            f'("{usual.approval}"), so its needs would mean nothing',
            way_out="write a larger share, or leave the override out",
        )
    change = charter.decisions["change-charter"]
    if change.of == "cast" or _level(bound(change.approval)) < _level(given):
        yield Fault(
            where=f"{where}.override",
            rule=f'"{phase.override}" of all votes is harder than a change of the charter: whoever can '
            "change the charter could first lower the needs",
            way_out='write in [decisions.change-charter] of = "all" and '
            f'approval = "{phase.override}", or a smaller override',
        )


def _level(threshold: Bound) -> tuple[Fraction, bool]:
    return (threshold.share, threshold.strict)
