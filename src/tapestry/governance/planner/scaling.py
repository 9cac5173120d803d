"""What loss a model of so many parameters and tokens would have: a scaling law, with what is known of its
error.

L(N, D) = E + A / N^α + B / D^β, nats a token. It holds for its authors' text, tokenizer, architecture and
schedule, trained in one place; for another text it says how much more compute buys, not which number comes
out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Final

FITTED_N: Final = (7e7, 1.6e10)
FITTED_D: Final = (5e9, 5e11)
"""Between which the law was fitted (arXiv 2203.15556)."""
NORMAL_95: Final = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One published fit; `floor_error` is the standard error of E, None where none is given."""

    name: str
    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    floor_error: float | None
    source: str

    def loss(self, parameters: float, tokens: float) -> float:
        found: float = self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta
        return found


HOFFMANN: Final = Fit(
    name="Hoffmann et al.",
    floor=1.6934,
    a=406.4,
    b=410.7,
    alpha=0.3392,
    beta=0.2849,
    floor_error=None,
    source="arXiv 2203.15556, approach 3, with the exponents before they were rounded (arXiv 2404.10102)",
)
BESIROGLU: Final = Fit(
    name="Besiroglu et al.",
    floor=1.8172,
    a=482.01,
    b=2085.43,
    alpha=0.3478,
    beta=0.3658,
    floor_error=0.03,
    source="arXiv 2404.10102, the same runs again; standard errors: E 0.03, A 125, B 1293, α and β 0.02",
)
FITS: Final = (HOFFMANN, BESIROGLU)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """Of one shared base, nats a token.

    Args:
        by_fit: what each fit gives.
        low, high: both fits, the newer with 1.96 standard errors of its floor to each side. Errors of the
        other
            constants go together and their covariance is not published, so they are not in it.
        middle: of the newer fit.
        beyond: whether the model or the tokens are outside of what the law was fitted to. Far below, it means
            nothing.
    """

    by_fit: dict[str, float]
    low: float
    middle: float
    high: float
    beyond: bool

    @property
    def perplexity(self) -> float:
        return exp(self.middle)


def expected_loss(parameters: float, tokens: float) -> Loss:
    """Of training in one place; what averaging members' updates adds is not in it."""
    by_fit = {fit.name: fit.loss(parameters, tokens) for fit in FITS}
    middle = by_fit[BESIROGLU.name]
    around = NORMAL_95 * (BESIROGLU.floor_error or 0.0)
    return Loss(
        by_fit=by_fit,
        low=min(*by_fit.values(), middle - around),
        middle=middle,
        high=max(*by_fit.values(), middle + around),
        beyond=not (FITTED_N[0] <= parameters <= FITTED_N[1] and FITTED_D[0] <= tokens <= FITTED_D[1]),
    )
