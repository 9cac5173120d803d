"""How much of a build's gain is left after a port: (new base − ported) / (new base − rebuilt).

Rebuilt is the same recipe run on the new base: what one would have had by starting over. The fraction is the
same whether lower or higher figures are better. A small denominator says that there was hardly any gain to
keep, and then a fraction of it is noise.

What can be asked without making anything anew: whether the derivative was better before it was carried over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

LEAST: Final = 0.01
"""Of the new base's figure: below it the denominator counts as none."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """One task in one language; or one language's bits per byte.

    Args:
        name: of it.
        new_base: figure of the new base.
        ported: of the derivative that was carried over.
        rebuilt: of the one made anew on the new base; None where nobody made it.
        before: of the derivative on the base it stood on; None where it was not asked.
    """

    name: str
    new_base: float
    ported: float
    rebuilt: float | None
    lower_is_better: bool = True
    before: float | None = None

    @property
    def denominator(self) -> float | None:
        """What starting over gains, better being positive."""
        if self.rebuilt is None:
            return None
        return self._better(self.rebuilt)

    @property
    def recovered(self) -> float | None:
        """None where it is undefined."""
        whole = self.denominator
        if whole is None or not whole >= LEAST * abs(self.new_base) or whole == 0:
            return None
        return self._better(self.ported) / whole

    @property
    def why_undefined(self) -> str | None:
        if self.recovered is not None:
            return None
        if self.denominator is None:
            return "no model was rebuilt on the new base"
        return (
            f"starting over gains {self.denominator:.4g}, less than 1 % of the new base's {self.new_base:.4g}"
        )

    @property
    def lost(self) -> bool:
        """Whether it was better before it was carried over: then the port was for nothing."""
        return self.before is not None and self._better(self.ported) < self._better(self.before)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "denominator": self.denominator,
            "recovered": self.recovered,
            "why_undefined": self.why_undefined,
            "lost": self.lost,
        }

    def _better(self, figure: float) -> float:
        return (self.new_base - figure) * (1 if self.lower_is_better else -1)


def gains(
    new_base: Mapping[str, float],
    ported: Mapping[str, float],
    rebuilt: Mapping[str, float] | None,
    *,
    before: Mapping[str, float] | None = None,
    lower_is_better: bool = True,
) -> tuple[Gain, ...]:
    """One for each name that both models have, by name."""
    return tuple(
        Gain(
            name=name,
            new_base=new_base[name],
            ported=ported[name],
            rebuilt=None if rebuilt is None else rebuilt.get(name),
            before=None if before is None else before.get(name),
            lower_is_better=lower_is_better,
        )
        for name in sorted(set(new_base) & set(ported))
    )
