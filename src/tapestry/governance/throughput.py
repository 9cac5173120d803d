"""How much of a stated training time is plausible, by the node's own throughput.

A rate is tokens a millisecond of one rank, in units of 2^-20, put into bins less than 1.6 % wide: so a run of
any length takes little memory, in whole numbers that are the same everywhere. A node's middle rate is the
lower edge of the bin that holds the middle one of its contributions, of two the faster. A contribution that
was slower than the middle is plausible for the time which that many tokens take at the middle rate; another
for the time it states. Whoever overstates every time by the same factor is not found by this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SHIFT: Final = 20
_MANTISSA: Final = 6


def place(tokens: int, ms: int) -> int:
    """Number of the bin of a rate; larger for a faster one."""
    rate = (tokens << _SHIFT) // ms
    extra = max(0, rate.bit_length() - _MANTISSA - 1)
    return (extra << _MANTISSA) + (rate >> extra)


def edge(number: int) -> int:
    """The lowest rate of a bin."""
    extra = max(0, (number >> _MANTISSA) - 1)
    return (number - (extra << _MANTISSA)) << extra


def time_at(rate_place: int, tokens: int) -> int:
    """Milliseconds that so many tokens take at the lower edge of a bin; 0 at no rate at all."""
    return (tokens << _SHIFT) // edge(rate_place) if rate_place else 0


def middle(places: Iterable[int]) -> int:
    """Of bins, one for each that counts; 0 where there is none."""
    ordered = sorted(places)
    return ordered[len(ordered) // 2] if ordered else 0


class Throughput:
    """Of one node in one run.

    Args:
        member: whose it is.
    """

    __slots__ = ("_bins", "member")

    def __init__(self, member: str) -> None:
        self.member = member
        self._bins: dict[int, tuple[int, int, int]] = {}
        """How many, their tokens and milliseconds."""

    def take(self, tokens: int, ms: int) -> None:
        """Count a contribution; one of no time says nothing."""
        if ms:
            count, of_tokens, of_ms = self._bins.get(number := place(tokens, ms), (0, 0, 0))
            self._bins[number] = (count + 1, of_tokens + tokens, of_ms + ms)

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens, _ in self._bins.values())

    def middle(self) -> int:
        """The bin of its middle rate; 0 where nothing was counted."""
        wanted = sum(count for count, _, _ in self._bins.values()) // 2
        for number in sorted(self._bins):
            wanted -= self._bins[number][0]
            if wanted < 0:
                return number
        return 0

    def plausible_ms(self) -> int:
        """Of all that was counted."""
        own = self.middle()
        faster = sum(ms for number, (_, _, ms) in self._bins.items() if number >= own)
        slower = sum(tokens for number, (_, tokens, _) in self._bins.items() if number < own)
        return faster + time_at(own, slower)


def bounded(own: int, tokens: int, ms: int) -> int:
    """Of one contribution of a node whose middle rate is in bin `own`."""
    return ms if not ms or place(tokens, ms) >= own else time_at(own, tokens)
