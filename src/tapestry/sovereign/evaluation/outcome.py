"""What a part of an evaluation gives of one model, unit by unit; and figures and changes made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tapestry.protocol.leakage import Interval
from tapestry.sovereign.evaluation.report import SHARES, Answered, Change, Figure, Measure, Role
from tapestry.sovereign.evaluation.resampling import Bootstrap, Numbers, share

BOUNDS: Final = dict.fromkeys((*SHARES, "survey-distance"), (0.0, 1.0))
"""Of a single unit."""
MAX_ANSWERED: Final = 50
"""Answers of one measure that the report shows."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one measure and part. `below`: of a ratio what is divided by; None for a mean over units."""

    measure: Measure
    part: str
    above: Numbers
    below: Numbers | None = None
    answered: tuple[Answered, ...] = ()

    @property
    def key(self) -> tuple[Measure, str]:
        return self.measure, self.part


def counted(
    measure: Measure, parts: Sequence[str], kept: Sequence[float], answered: Iterable[Answered] = ()
) -> list[Outcome]:
    """Of things counted: all together, and by part where there are several."""
    values = np.asarray(kept, np.float64)
    whole = Outcome(measure=measure, part="", above=values, answered=tuple(answered)[:MAX_ANSWERED])
    names = list(dict.fromkeys(parts))
    if len(names) < 2 and names[0] in ("", "und"):
        return [whole]
    where = np.asarray(parts)
    return [whole, *(Outcome(measure=measure, part=name, above=values[where == name]) for name in names)]


class Figures:
    """Figures of models over the same units.

    Args:
        seed: of the draws.
        resamples: of each interval.
        confidence: of the intervals.
    """

    def __init__(self, *, seed: int, resamples: int, confidence: float) -> None:
        self._seed, self._resamples, self._confidence = seed, resamples, confidence

    def draws(self, units: int) -> Bootstrap:
        return Bootstrap(units, seed=self._seed, resamples=self._resamples, confidence=self._confidence)

    def figure(self, role: Role, one: Outcome) -> Figure:
        """Of one model."""
        count = len(one.above)
        if one.below is not None:
            value, of = self.draws(count).ratio(one.above, one.below), int(one.below.sum())
        elif one.measure in SHARES:
            value, of = share(int(one.above.sum()), count, self._confidence), count
        else:
            value, of = self._mean(one.above, BOUNDS.get(one.measure)), count
        return Figure(measure=one.measure, part=one.part, role=role, count=count, of=of, value=value)

    def change(self, mine: Outcome, over: Role, other: Outcome) -> Change:
        """Of the model against another."""
        draws = self.draws(len(mine.above))
        if mine.below is not None:
            value = draws.gain(mine.above, other.above)
        else:
            bounds = BOUNDS.get(mine.measure)
            both = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
            value = self._mean(mine.above - other.above, both)
        relative = mine.below is not None
        return Change(measure=mine.measure, part=mine.part, over=over, relative=relative, value=value)

    def _mean(self, values: Numbers, bounds: tuple[float, float] | None) -> Interval:
        return self.draws(len(values)).mean(values, bounds)

    def changes(self, found: Mapping[Role, Sequence[Outcome]]) -> list[Change]:
        """Of the model against each of the others, where both have a measure."""
        mine = {each.key: each for each in found["model"]}
        changes = []
        for role, outcomes in found.items():
            theirs = {each.key: each for each in outcomes}
            if role != "model":
                changes += [
                    self.change(one, role, theirs[key])
                    for key, one in mine.items()
                    if key in theirs and len(theirs[key].above) == len(one.above)
                ]
        return changes
