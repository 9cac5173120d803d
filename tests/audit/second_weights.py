"""Merge weights, for the second verifier: from docs/formats/rounds.md, sharing no code with Tapestry."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Json = dict[str, Any]
UNIT = 1 << 24


def decimal(value: float) -> str:  # as the JSON has it
    return repr(value)


def weights(plan: Json, accepted: list[Json]) -> list[int] | None:  # None: the cap cannot be met
    rules, amounts = plan["merge"], dict[str, dict[str, Fraction]]()
    cap = int(Fraction(decimal(rules["influence_cap"])) * UNIT)
    for each in accepted:
        by = {"tokens": each["tokens"], "equal": 1}
        amount = by.get(rules["weighting"], Fraction(each["tokens"] ** 2, each["steps"]))
        late = Fraction(decimal(rules["staleness_factor"])) ** each["lag"]
        amounts.setdefault(each["member"], {})[each["node"]] = amount * late
    if len(amounts) * cap < UNIT:
        return None
    sums = {member: sum(nodes.values(), Fraction(0)) for member, nodes in amounts.items()}
    rest, room, shares, units = sum(sums.values()), Fraction(UNIT), {}, {}
    for member in sorted(sums, key=lambda m: -sums[m]):  # whoever is above the cap stands in front
        shares[member] = min(Fraction(cap), sums[member] * room / rest)
        rest, room = (rest - sums[member], room - cap) if shares[member] == cap else (rest, room)
    for member, total in to_units(shares, UNIT, cap).items():
        parts = {node: amount * total / sums[member] for node, amount in amounts[member].items()}
        units.update(to_units(parts, total, total))
    return [units[each["node"]] for each in accepted]


def to_units(parts: dict[str, Fraction], total: int, most: int) -> dict[str, int]:  # by largest remainder
    units = {name: min(int(part), most) for name, part in parts.items()}
    order = sorted(parts, key=lambda name: (int(parts[name]) - parts[name], name))
    while sum(units.values()) < total:
        for name in order:
            units[name] += int(units[name] < most and sum(units.values()) < total)
    return units
