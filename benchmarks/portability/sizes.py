"""How large a trial is, and how its base is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

APART: Final = 0.02
"""Releases are at least so far apart, of the older one's bits per byte."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Steps are of the optimizer."""

    hidden: int
    layers: int
    sequence_length: int = 64
    sequences: int = 16
    """Of a step of the base, shared by its languages."""
    private_sequences: int = 16
    """Of a step of a derivative."""
    base_rate: float = 2e-3
    warmup: int = 50
    falls_after: int | None = None
    """The step at which the base's rate begins to fall; None for never."""
    falls_for: int = 1
    falls_to: float = 1.0
    """Of the peak; it stays there, and releases go on at it."""
    first: int
    """Steps before release 0."""
    look: int
    """Steps between two looks at whether the next release is far enough."""
    most: int
    """Steps of the base at most."""
    private: int
    """Steps of a derivative."""
    heal: int = 20
    """Steps of a short healing after a port, on the member's text."""
    private_rate: float = 3e-4
    lora_rate: float = 2e-3
    rank: int = 16
    releases: int = 5
    evaluate: int = 1 << 14
    """Tokens of held-out text of each language."""
    averaged: float = 0.98
    """Released are the weights, averaged over the last steps by this factor a step, as merges average."""

    def rate(self, step: int) -> float:
        """Of the base at a step."""
        if step < self.warmup:
            return self.base_rate * (step + 1) / self.warmup
        if self.falls_after is None or step < self.falls_after:
            return self.base_rate
        part = min(1.0, (step - self.falls_after) / self.falls_for)
        return self.base_rate * float(self.falls_to**part)


SIZES: Final = {
    "tiny": Size(
        hidden=32, layers=1, first=20, look=10, most=400, private=10, evaluate=1 << 10, averaged=0.5
    ),
    "small": Size(hidden=128, layers=2, first=600, look=50, most=8000, private=200),
    "rested": Size(
        hidden=96,
        layers=2,
        sequences=10,
        first=1500,
        look=100,
        most=12_000,
        private=100,
        averaged=0.995,
        falls_after=600,
        falls_for=600,
        falls_to=0.4,
        evaluate=1 << 13,
    ),
    "averaged": Size(
        hidden=96,
        layers=2,
        sequences=12,
        first=1500,
        look=100,
        most=12_000,
        private=100,
        averaged=0.998,
        falls_after=600,
        falls_for=600,
        falls_to=0.4,
        evaluate=1 << 13,
    ),
    "long": Size(
        hidden=96,
        layers=2,
        sequences=12,
        first=2500,
        look=100,
        most=16_000,
        private=100,
        averaged=0.999,
        falls_after=600,
        falls_for=600,
        falls_to=0.4,
        evaluate=1 << 13,
    ),
    "medium": Size(hidden=192, layers=3, first=1500, look=100, most=30_000, private=300, sequence_length=128),
}
