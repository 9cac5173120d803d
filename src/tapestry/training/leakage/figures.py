"""Figures of attacks that guess, with intervals that assume nothing of how scores are distributed.

A score is larger where the attack holds a window for a member of the training text. M: members. N:
non-members. Intervals take windows for independent of each other; those of one document are not, so true
intervals are wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from tapestry.errors import InputError

FALSE_POSITIVES: Final = 0.01
CONFIDENCE: Final = 0.95
MIN_MEMBERS: Final = 20

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure and its interval of confidence."""

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the interval does."""
        return self.low <= value <= self.high


def least_non_members(false_positives: float = FALSE_POSITIVES) -> int:
    """Non-members without which no threshold gives so few false positives."""
    return math.ceil(round(1 / false_positives, 9))


def true_positive_rate(
    members: Scores,
    non_members: Scores,
    *,
    false_positives: float = FALSE_POSITIVES,
    confidence: float = CONFIDENCE,
) -> Figure:
    """Part of the members that score above what at most `false_positives` of the non-members do (Carlini et
    al., arXiv 2112.03570, on why this rather than a mean accuracy). Equal scores count as below.

    The interval covers both samples: the threshold lies between two of the non-members' scores but with
    probability (1 − confidence) / 2, by the binomial number of non-members above it, and above each of those
    the members are counted with an interval by Clopper and Pearson. It holds for continuous scores, and is
    wider than needed; with fewer than 436 non-members it begins at 0, since the threshold may lie above all.

    Raises:
        InputError: too few of either.
    """
    least = least_non_members(false_positives)
    if len(members) < MIN_MEMBERS or len(non_members) < least:
        raise InputError(
            f"{len(members)} windows of training text and {len(non_members)} of other text are too few for a "
            f"rate at {false_positives:.3g} false positives: {MIN_MEMBERS} and {least} are needed"
        )
    descending = np.sort(non_members)[::-1]
    value = _above(members, descending[int(false_positives * len(descending) + 1e-9)])
    each = 1 - (1 - confidence) / 2
    fewest, most = binomial_range(len(descending), false_positives, each)
    low, high = 0.0, 1.0
    if fewest > 0:
        low = clopper_pearson(int((members >= descending[fewest - 1]).sum()), len(members), each)[0]
    if most < len(descending):
        high = clopper_pearson(int((members > descending[most]).sum()), len(members), each)[1]
    return Figure(value=value, low=min(low, value), high=max(high, value))


def area(members: Scores, non_members: Scores, *, confidence: float = CONFIDENCE) -> Figure:
    """Probability that a member scores above a non-member, equal scores counted half (the area below the ROC
    curve), with the interval of DeLong (Biometrics 1988). That has no width where no pair is in the wrong
    order, or none in the right one: then it is that of as many pairs as there can be apart, all alike."""
    m, n = len(members), len(non_members)
    both = _midranks(np.concatenate([members, non_members]))
    beats = (both[:m] - _midranks(members)) / n
    beaten = 1 - (both[m:] - _midranks(non_members)) / m
    value = float(beats.mean())
    error = math.sqrt(_variance(beats) / m + _variance(beaten) / n)
    if error == 0.0:
        return _all_alike(value, min(m, n), 0.0, 1.0, confidence)
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Figure(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))


def clopper_pearson(hits: int, of: int, confidence: float) -> tuple[float, float]:
    """The exact interval of a binomial probability (Biometrika 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _at_least(hits, of, p) - tail)
    high = 1.0 if hits == of else _root(lambda p: _at_least(hits + 1, of, p) - (1 - tail))
    return low, high


def binomial_range(of: int, probability: float, confidence: float) -> tuple[int, int]:
    """The narrowest range, cut as far as its tails allow, that a binomial number leaves on either side with
    at most (1 − confidence) / 2."""
    tail = (1 - confidence) / 2
    cumulated = np.cumsum(_masses(of, probability))
    fewest = int(np.searchsorted(cumulated, tail, side="right"))
    most = int(np.searchsorted(cumulated, 1 - tail, side="left"))
    return fewest, min(most, of)


def exposures(planted: Scores, candidates: Scores) -> Scores:
    """Bits by which each canary stands out (Carlini et al., "The Secret Sharer", arXiv 1802.08232, by
    sampling): log2 of candidates and itself, less log2 of its rank among them by loss. Equal losses rank
    before it.

    Args:
        planted: (C,) losses of canaries.
        candidates: (C, K) losses of others of the same form, which nobody planted.
    """
    ranks = 1 + (candidates <= planted[:, None]).sum(axis=1)
    return np.asarray(np.log2(candidates.shape[1] + 1) - np.log2(ranks))


def exposure_by_chance(candidates: int) -> float:
    """What a canary that was never seen has in the mean: each rank is as likely."""
    ranks = np.arange(1, candidates + 2)
    return float(np.log2(candidates + 1) - np.log2(ranks).mean())


def mean(values: Scores, lowest: float, highest: float, *, confidence: float = CONFIDENCE) -> Figure:
    """A mean of values between two bounds, with the interval of Student's t; of a single value, or of several
    that are equal, see `_all_alike`."""
    value, n = float(values.mean()), len(values)
    if (variance := _variance(values)) == 0.0:
        return _all_alike(value, n, lowest, highest, confidence)
    reach = _student(0.5 + confidence / 2, n - 1) * math.sqrt(variance / n)
    return Figure(value=value, low=max(lowest, value - reach), high=min(highest, value + reach))


def _all_alike(value: float, of: int, lowest: float, highest: float, confidence: float) -> Figure:
    """The interval of a mean where all that was drawn is the same: with what is left of the confidence on
    either side, at least a part `surely` of all there is would have been that too (Clopper and Pearson), and
    nothing is known of the rest but its bounds."""
    surely = ((1 - confidence) / 2) ** (1 / of)
    low, high = (value + (bound - value) * (1 - surely) for bound in (lowest, highest))
    return Figure(value=value, low=low, high=high)


def _student(probability: float, freedom: int) -> float:
    """The quantile of Student's distribution: with t = √ν tan θ its density is as cos(θ)^(ν − 1)."""
    angles = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    mass = np.cos(angles).clip(0.0) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((mass[1:] + mass[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(probability * below[-1], below, angles)))


def standardized(scores: Scores, non_members: Scores) -> Scores:
    """In standard deviations of the non-members, so that scores of several targets can be put together."""
    return np.asarray((scores - non_members.mean()) / max(float(non_members.std()), 1e-12))


def _above(members: Scores, threshold: float) -> float:
    return float((members > threshold).mean())


def _variance(values: Scores) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _midranks(values: Scores) -> Scores:
    """Ranks from 1, equal values at the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Scores = ends - (counts - 1) / 2
    return middle[places]


def _masses(of: int, probability: float) -> Scores:
    """(of + 1,) probabilities of a binomial number."""
    if probability in (0.0, 1.0):
        found = np.zeros(of + 1)
        found[of if probability else 0] = 1.0
        return found
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, of + 1)))])
    k = np.arange(of + 1)
    logs = factorials[of] - factorials - factorials[::-1]
    return np.asarray(np.exp(logs + k * math.log(probability) + (of - k) * math.log1p(-probability)))


def _at_least(hits: int, of: int, probability: float) -> float:
    return math.fsum(_masses(of, probability)[hits:].tolist())


def _root(rising: Callable[[float], float]) -> float:
    """Where a function of a probability that rises crosses zero."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
