"""What counts as having contributed, where votes go by it: whole numbers, from the merges that count.

A merge is one entry `round-committed`; a round of several fragments is several. Which merges count, whoever
keeps the ledger knows: the last `window_rounds` of all runs, behind the entry by which votes came to go by
contribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tapestry.protocol.messages import Merged

MAX_MERGES = 100_000
"""The longest window there is."""


def weights(merged: Sequence[Merged]) -> Counter[str]:
    """Of one merge, by member, in units of 2^-24."""
    found: Counter[str] = Counter()
    for each in merged:
        found[each.member] += each.weight
    return found


def amounts(measure: str, merges: Iterable[Mapping[str, int]]) -> Counter[str]:
    """By member: merges with a contribution of it (`rounds`), or the weight of these (`weight`).

    Args:
        merges: the `weights` of each.
    """
    found: Counter[str] = Counter()
    for each in merges:
        found.update(each if measure == "weight" else each.keys())
    return found
