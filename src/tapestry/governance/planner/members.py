"""The members file: who would take part, with what hardware, links, prices and commitments.

format = "tapestry.members-file"
version = 1

[goal]        what the consortium wants: days, utilisation, tokens
[core]        links and disk of the core
[prices]      of an accelerator's hour, of a gigabyte sent, of one kept a month
[[members]]   one of each, or `count` alike
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from tapestry.governance.planner.spread import Spread
from tapestry.protocol.canonical import Name
from tapestry.protocol.message import Part

Amount = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
Cost = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Some = Annotated[int, Field(ge=1, le=10_000_000)]
MAX_MEMBERS: Final = 2_000
MAX_ENTRIES: Final = 256
"""Of the file. The time of an estimate grows with the square of both."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a maker states. Peak is dense bf16, without sparsity."""

    peak_tflops: float
    memory_gb: float
    source: str


ACCELERATORS: Final = {
    "a100-80gb": Accelerator(312.0, 80.0, "NVIDIA A100 datasheet"),
    "l40s": Accelerator(362.05, 48.0, "NVIDIA L40S datasheet"),
    "h100-sxm": Accelerator(989.4, 80.0, "NVIDIA H100 datasheet, half of the figure with sparsity"),
    "h200-sxm": Accelerator(989.4, 141.0, "NVIDIA H200 datasheet, half of the figure with sparsity"),
    "b200": Accelerator(2250.0, 180.0, "NVIDIA HGX B200 datasheet, half of the figure with sparsity"),
    "mi300x": Accelerator(1307.4, 192.0, "AMD Instinct MI300X datasheet"),
}

AcceleratorName = Literal["a100-80gb", "l40s", "h100-sxm", "h200-sxm", "b200", "mi300x"]


class Goal(Part):
    """What the consortium wants of the run; what falls short of it is missing."""

    days: Amount | None = None
    """The whole run is to take no longer."""
    utilisation: Share = 0.8
    """Part of the time in which nodes train."""
    tokens: Annotated[int, Field(ge=1, le=1 << 53)] | None = None
    """Of all members together; then rounds are as many as it takes, whatever `rounds.total` says."""
    epochs: Amount = 4.0
    """How often the same text may be seen."""


class Core(Part):
    """Where the core stands."""

    up_mbit: Amount = 10_000.0
    down_mbit: Amount = 10_000.0
    disk_gb: Amount | None = None
    pending_gb: Amount = 68.719476736
    """What one node may have uploaded that nothing uses yet: `limits.pending_bytes` of core.toml."""


class Prices(Part):
    """In one currency; each a figure, or its smallest and largest."""

    currency: Annotated[str, StringConstraints(min_length=1, max_length=16)] = "EUR"
    accelerator_hour: Cost | tuple[Cost, Cost] | None = None
    gb_sent: Cost | tuple[Cost, Cost] | None = None
    gb_month: Cost | tuple[Cost, Cost] | None = None


class Committed(Part):
    """What a member has pledged."""

    accelerator_hours: Amount | None = None
    tokens: Amount | None = None
    """Of its own text, each counted once."""
    funds: Amount | None = None


class Member(Part):
    """A member with one node, or several members alike."""

    name: Name
    count: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = 1
    """Members alike: with more than one they are called name-1, name-2, …"""
    accelerator: AcceleratorName | None = None
    peak_tflops: Amount | None = None
    """Of one accelerator, dense, in the precision that is trained in; in place of `accelerator`."""
    memory_gb: Amount | None = None
    accelerators: Some = 1
    utilisation: Share | tuple[Share, Share] = (0.3, 0.45)
    """What part of the peak the trainer reaches while it trains."""
    tokens_per_s: Amount | tuple[Amount, Amount] | None = None
    """What the node trains, where it was measured; in place of a peak."""
    up_mbit: Amount
    down_mbit: Amount
    round_trip_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] = 40.0
    """To the core."""
    available: Share | tuple[Share, Share] = (0.97, 1.0)
    """Chance that the node delivers in a round."""
    disk_gb: Amount | None = None
    accelerator_hour: Cost | tuple[Cost, Cost] | None = None
    """Where it differs from the general price."""
    committed: Committed = Committed()

    @model_validator(mode="after")
    def _has_a_pace(self) -> Member:
        ways = [self.accelerator, self.peak_tflops, self.tokens_per_s]
        if sum(way is not None for way in ways) != 1:
            raise ValueError("one of accelerator, peak_tflops and tokens_per_s is needed, and only one")
        for field in ("utilisation", "tokens_per_s", "available", "accelerator_hour"):
            _check_order(field, getattr(self, field))
        return self

    @property
    def peak_flops(self) -> float | None:
        """Of the node; None where only its tokens are known."""
        listed = ACCELERATORS[self.accelerator].peak_tflops if self.accelerator else self.peak_tflops
        return None if listed is None else listed * 1e12 * self.accelerators

    @property
    def accelerator_memory_bytes(self) -> float | None:
        if self.memory_gb is not None:
            return self.memory_gb * 1e9
        return ACCELERATORS[self.accelerator].memory_gb * 1e9 if self.accelerator else None

    def pace(self, flops_per_token: float) -> Spread:
        """Tokens a second while the node trains."""
        if self.tokens_per_s is not None:
            return as_spread(self.tokens_per_s, more_is_better=True)
        peak = self.peak_flops or 0.0
        used = as_spread(self.utilisation, more_is_better=True)
        return Spread(*(peak * each / flops_per_token for each in (used.best, used.middle, used.worst)))


class MembersFile(Part):
    """A whole members file."""

    format: Literal["tapestry.members-file"]
    version: Literal[1]
    goal: Goal = Goal()
    core: Core = Core()
    prices: Prices = Prices()
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=MAX_ENTRIES)]

    @model_validator(mode="after")
    def _consistent(self) -> MembersFile:
        for field in ("accelerator_hour", "gb_sent", "gb_month"):
            _check_order(f"prices.{field}", getattr(self.prices, field))
        twice = [name for name, times in Counter(each.name for each in self.members).items() if times > 1]
        if twice:
            raise ValueError(f"member {twice[0]} is there twice; `count` is for members alike")
        if (nodes := sum(each.count for each in self.members)) > MAX_MEMBERS:
            raise ValueError(f"{nodes} members in all are more than {MAX_MEMBERS}")
        return self

    @property
    def nodes(self) -> int:
        return sum(each.count for each in self.members)


def as_spread(value: float | tuple[float, float], *, more_is_better: bool) -> Spread:
    """A figure, or its smallest and largest."""
    pair = value if isinstance(value, tuple) else (value, value)
    return Spread.of_pair(pair, more_is_better=more_is_better)


def _check_order(field: str, value: float | tuple[float, float] | None) -> None:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"{field} has the larger figure first; give [smallest, largest]")
