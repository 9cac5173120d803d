"""A phase as it is shown: needed, pledged, confirmed, delivered, by resource and member; JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapestry.governance.delivered import Work
from tapestry.governance.resources import Amount, amount
from tapestry.governance.thresholds import Reckoning


def shown(found: Reckoning, work: Mapping[str, Work]) -> dict[str, Any]:
    """`work`: what each member has delivered to the phase's runs."""
    phase = found.phase
    return {
        "phase": found.name,
        "title": phase.title,
        "open": found.opened,
        "go": found.go,
        "missing": list(found.missing),
        "counts": phase.counts,
        "override": phase.override,
        "runs": list(phase.runs),
        "members": {"needed": phase.members, "bring": found.members},
        "resources": [_resource(found, resource, work) for resource in sorted(phase.needs)],
        "work": [
            {
                "member": member,
                "contributions": done.contributions,
                "tokens": done.tokens,
                "steps": done.steps,
                "accelerator_hours_at_most": done.accelerator_hours,
            }
            for member, done in sorted(work.items())
        ],
    }


def _resource(found: Reckoning, resource: str, work: Mapping[str, Work]) -> dict[str, Any]:
    needed = amount(found.phase.needs[resource])
    column = "confirmed" if found.phase.counts == "confirmed" else "pledged"
    rows = {row.member: row for row in found.rows if row.resource == resource}
    nothing = Amount(of=needed.of, base=0)
    names = sorted({*rows, *(work if resource == "compute" else ())})
    return {
        "resource": resource,
        "needed": str(needed),
        "pledged": str(found.total(resource, "pledged")),
        "confirmed": str(found.total(resource, "confirmed")),
        "met": found.total(resource, column).base >= needed.base,
        "delivered": delivered(resource, sum(work.values(), Work())),
        "members": [
            {
                "member": name,
                "pledged": str(rows[name].pledged if name in rows else nothing),
                "confirmed": str(rows[name].confirmed if name in rows else nothing),
                "delivered": delivered(resource, work.get(name, Work())),
            }
            for name in names
        ],
    }


def delivered(resource: str, done: Work) -> str | None:
    """What the ledger shows of a resource, in words; None where it measures nothing of it."""
    hours = done.accelerator_hours if resource == "compute" else None
    return None if hours is None else f"at most {hours:.1f} accelerator-hours"
