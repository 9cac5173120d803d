"""Figures that are not known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

Corner = Literal["best", "middle", "worst"]
CORNERS: Final[tuple[Corner, ...]] = ("best", "middle", "worst")


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure in the best, the middle and the worst case; which of best and worst is larger depends on what
    it is of. Times, bytes and money are monotone in every figure, so the three cases bound them; a ratio of
    two of them need not be."""

    best: float
    middle: float
    worst: float

    def at(self, corner: Corner) -> float:
        found: float = getattr(self, corner)
        return found

    @property
    def low(self) -> float:
        return min(self.best, self.middle, self.worst)

    @property
    def high(self) -> float:
        return max(self.best, self.middle, self.worst)

    @classmethod
    def exactly(cls, value: float) -> Spread:
        return cls(value, value, value)

    @classmethod
    def of_pair(cls, pair: tuple[float, float], *, more_is_better: bool) -> Spread:
        """Of a pair with the smaller first; the middle is their mean."""
        low, high = pair
        middle = (low + high) / 2
        return cls(high, middle, low) if more_is_better else cls(low, middle, high)

    @classmethod
    def measured(cls, values: Sequence[float], *, more_is_better: bool) -> Spread:
        """Of measurements: their median, and where nine of ten lie."""
        ordered = sorted(values)
        low, high = quantile(ordered, 0.05), quantile(ordered, 0.95)
        middle = median(ordered)
        return cls(high, middle, low) if more_is_better else cls(low, middle, high)

    @classmethod
    def over(cls, work: Callable[[Corner], float]) -> Spread:
        """A result in each of the three cases."""
        return cls(*(work(corner) for corner in CORNERS))

    def as_json(self) -> dict[str, float]:
        return {"low": self.low, "middle": self.middle, "high": self.high}


def quantile(ordered: Sequence[float], part: float) -> float:
    """Between the two nearest of sorted values, linearly."""
    place = part * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def total(spreads: Iterable[Spread]) -> Spread:
    """Case by case."""
    listed = list(spreads)
    return Spread(*(sum(each.at(corner) for each in listed) for corner in CORNERS))
