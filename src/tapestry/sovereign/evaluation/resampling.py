"""Intervals by resampling, and the divergence of distributions. Arithmetic only; the same for the same seed.

U: units that are drawn with replacement: documents, prompts, pairs, questions. Intervals are the percentiles
of the resampled figure (Efron, 1979): they tell how much depends on which units were at hand, and nothing of
how well these stand for others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.protocol.leakage import Interval
from tapestry.training.leakage.figures import CONFIDENCE, clopper_pearson
from tapestry.training.leakage.figures import mean as bounded

RESAMPLES: Final = 1000
Numbers = npt.NDArray[np.float64]
Draw = npt.NDArray[np.int64]


class Bootstrap:
    """Draws for figures over U units. The same draws for every model, so that differences are in pairs.

    Args:
        units: U.
        seed: of the draws.
        resamples: how many.
        confidence: of the intervals.
    """

    def __init__(
        self, units: int, *, seed: int, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
    ) -> None:
        self._units, self._seed, self._resamples = units, seed, resamples
        self._tail, self._confidence = (1 - confidence) / 2, confidence

    def interval(self, figure: Callable[[Draw], float]) -> Interval:
        """A figure of all units, and where it lies; `figure` takes numbers of units, some of them twice."""
        value = figure(np.arange(self._units))
        draws = np.random.default_rng([self._seed, self._units])
        found = [figure(draws.integers(0, self._units, self._units)) for _ in range(self._resamples)]
        low, high = np.quantile(np.asarray(found), [self._tail, 1 - self._tail])
        return Interval(value=value, low=min(float(low), value), high=max(float(high), value))

    def ratio(self, above: Numbers, below: Numbers) -> Interval:
        """Σ above / Σ below. (U,) each."""
        return self.interval(lambda draw: float(above[draw].sum() / below[draw].sum()))

    def gain(self, mine: Numbers, other: Numbers) -> Interval:
        """(Σ other − Σ mine) / Σ other. (U,) each, of the same units."""
        return self.interval(lambda draw: float(1 - mine[draw].sum() / other[draw].sum()))

    def mean(self, values: Numbers, bounds: tuple[float, float] | None = None) -> Interval:
        """(U,), each within `bounds` if given; where all are alike, or there is one, only they tell."""
        if bounds is not None and bool((values == values[0]).all()):
            found = bounded(values, *bounds, confidence=self._confidence)
            return Interval(value=found.value, low=found.low, high=found.high)
        return self.interval(lambda draw: float(values[draw].mean()))


def share(hits: int, of: int, confidence: float = CONFIDENCE) -> Interval:
    """A part of things counted, with the exact interval of Clopper and Pearson."""
    low, high = clopper_pearson(hits, of, confidence)
    value = hits / of
    return Interval(value=value, low=min(low, value), high=max(high, value))


def jensen_shannon(p: Numbers, q: Numbers) -> float:
    """Jensen–Shannon distance of two distributions, from 0 to 1 (Lin, IEEE Trans. Inf. Theory 37, 1991;
    its root is a metric: Endres and Schindelin, ibid. 49, 2003).

    With m = (p + q) / 2 and logarithms to base 2:

        √( ½ Σ p log(p / m) + ½ Σ q log(q / m) ),  0 log 0 = 0
    """
    p, q = p / p.sum(), q / q.sum()
    both = p + q  # not its half, which of the smallest number there is would be 0
    total = 0.0
    for each in (p, q):
        some = each > 0
        total += float((each[some] * np.log2(2 * (each[some] / both[some]))).sum()) / 2
    return float(np.sqrt(min(max(total, 0.0), 1.0)))
