"""How much each contribution weighs: exact integers, so every machine gets the same.

A weight is a number of units of 2^-24 (every such number is exact in fp32), and the weights of a
merge add up to 2^24. Shares follow tokens (or are equal), a member's share is capped, and what the
cap takes away goes to the others in proportion (water-filling), never back above the cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tapestry.errors import InfeasibleCap

UNIT = 1 << 24
Weighting = Literal["tokens", "equal", "tokens-per-step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One accepted contribution, as far as its weight depends on it."""

    member: str
    node: str
    tokens: int
    steps: int = 1
    lag: int = 0
    """Rounds it is late."""


def capped(shares: Mapping[str, Fraction], cap: Fraction) -> dict[str, Fraction]:
    """Water-filling: the largest are cut to `cap`, the rest scaled up until they add up to 1."""
    fixed: set[str] = set()
    while True:
        rest = sum((share for member, share in shares.items() if member not in fixed), Fraction(0))
        room = 1 - cap * len(fixed)
        result = {m: cap if m in fixed else s * room / rest for m, s in shares.items()}
        over = {m for m, weight in result.items() if weight > cap}
        if not over:
            return result
        fixed |= over
        if len(fixed) == len(shares):  # only when members · cap is exactly 1
            return dict.fromkeys(shares, cap)


def _whole_units(parts: Mapping[str, Fraction], total: int, most: int) -> dict[str, int]:
    """Round to integers that add up to `total`, none above `most`; largest remainder, ties by name."""
    units = {name: min(int(part), most) for name, part in parts.items()}
    order = sorted(parts, key=lambda name: (int(parts[name]) - parts[name], name))
    missing = total - sum(units.values())
    while missing:
        for name in order:
            if missing and units[name] < most:
                units[name] += 1
                missing -= 1
    return units


def _amount(share: Share, weighting: Weighting) -> Fraction:
    match weighting:
        case "tokens":
            return Fraction(share.tokens)
        case "tokens-per-step":
            return Fraction(share.tokens**2, share.steps)
        case "equal":
            return Fraction(1)


def cap_can_be_met(influence_cap: float, members: int) -> bool:
    """Whether weights of so many members, none above the cap, can add up to 1."""
    return members * _cap_units(influence_cap) >= UNIT


def _cap_units(influence_cap: float) -> int:
    """Of the decimal the plan states, not of the binary fraction next to it."""
    return int(Fraction(repr(influence_cap)) * UNIT)


def merge_weights(
    shares: Sequence[Share], *, weighting: Weighting, influence_cap: float, staleness_factor: float = 1.0
) -> tuple[int, ...]:
    """Weights in units of 2^-24, in the order of `shares`; they add up to 2^24.

    Args:
        shares: the accepted contributions, at least one, each node once.
        weighting: by `tokens`, by tokens² / steps, or each contribution `equal`.
        staleness_factor: a share counts so much of itself for each round it is late (0 < factor ≤ 1).
        influence_cap: no member weighs more than this (0 < cap ≤ 1).

    Raises:
        InfeasibleCap: members · cap < 1, so no weights can meet the cap.
    """
    if not shares:
        raise InfeasibleCap("no contribution to weigh")
    factor = Fraction(repr(staleness_factor))
    amounts = {share.node: _amount(share, weighting) * factor**share.lag for share in shares}
    if len(amounts) != len(shares):
        raise ValueError("a node stands twice in a merge")
    of_member: dict[str, list[Share]] = {}
    for share in shares:
        of_member.setdefault(share.member, []).append(share)
    cap_units = _cap_units(influence_cap)
    if not cap_can_be_met(influence_cap, len(of_member)):
        raise InfeasibleCap(
            f"an influence cap of {influence_cap} cannot be met by {len(of_member)} members",
            hint=f"with {len(of_member)} members the cap must be at least 1/{len(of_member)}; "
            "raise merge.influence_cap or the quorum",
        )
    total = sum(amounts.values())
    by_member = {m: Fraction(sum(amounts[s.node] for s in g)) / total for m, g in of_member.items()}
    shares_of = capped(by_member, Fraction(cap_units, UNIT))
    units = _whole_units({m: weight * UNIT for m, weight in shares_of.items()}, UNIT, cap_units)
    result: dict[str, int] = {}
    for member, group in of_member.items():
        own = sum(amounts[s.node] for s in group)
        parts = {s.node: amounts[s.node] * units[member] / own for s in group}
        result.update(_whole_units(parts, units[member], units[member]))
    return tuple(result[share.node] for share in shares)
