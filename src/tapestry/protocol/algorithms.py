"""Published algorithms by name, as the fields of a plan that make them. Not a mechanism: whoever names one
gets these values, and what the plan says besides wins. docs/concepts/training.md explains each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

FEW: Final = {"kind": "topk", "keep": 64, "side": 64, "bits": 2}
FP4: Final = {"kind": "fp4"}


AlgorithmName = Literal[
    "fedavg", "diloco", "sparseloco", "muloco", "decoupled", "streaming", "movers", "delayed"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """What a name stands for: fields of the plan's tables."""

    about: str
    inner: dict[str, Any] = field(default_factory=dict)
    codec: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, Any] = field(default_factory=dict)
    streaming: dict[str, Any] = field(default_factory=dict)
    rounds: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, dict[str, Any]]:
        """By name of the table."""
        return {
            "inner": dict(self.inner),
            "codec": dict(self.codec),
            "merge": dict(self.merge),
            "streaming": dict(self.streaming),
            "rounds": dict(self.rounds),
        }


ALGORITHMS: Final[dict[AlgorithmName, Algorithm]] = {
    "fedavg": Algorithm(
        about="the weighted mean of the local models (arXiv 1602.05629)",
        merge={"outer": "fedavg", "outer_rate": 1.0, "outer_momentum": 0.0},
    ),
    "diloco": Algorithm(
        about="AdamW inside, Nesterov momentum on the mean update (arXiv 2311.08105)",
        merge={"outer": "nesterov", "outer_rate": 0.7, "outer_momentum": 0.9},
    ),
    "sparseloco": Algorithm(
        about="the largest 64 of 4096 values in 2 bits, error feedback, no outer momentum (arXiv 2508.15706)",
        codec={"matrices": FEW, "embeddings": FEW, "norms": FEW, "error_feedback": 0.95},
        merge={"outer": "sgd", "outer_rate": 1.0, "outer_momentum": 0.0},
    ),
    "muloco": Algorithm(
        about="Muon inside, Nesterov momentum, 4-bit updates (arXiv 2505.23725)",
        inner={"optimizer": "muon"},
        codec={"matrices": FP4, "embeddings": FP4},
        merge={"outer": "nesterov", "outer_rate": 0.7, "outer_momentum": 0.6},
    ),
    "decoupled": Algorithm(
        about="norms and directions averaged apart, weights by tokens² / steps (arXiv 2604.21428)",
        merge={
            "weighting": "tokens-per-step",
            "combine": "directions",
            "outer": "nesterov",
            "outer_rate": 0.7,
            "outer_momentum": 0.9,
        },
    ),
    "streaming": Algorithm(
        about="parts of the model merged in turn while the next steps train, in 4 bits (arXiv 2501.18512)",
        codec={"matrices": FP4, "embeddings": FP4},
        merge={"outer": "nesterov", "outer_rate": 0.7, "outer_momentum": 0.9},
        streaming={"fragments": 2, "overlap_steps": 5, "mixing": 0.5},
    ),
    "movers": Algorithm(
        about="each element divided by the effective number of those who moved it, little outer momentum",
        merge={"average": "movers", "outer": "nesterov", "outer_rate": 1.0, "outer_momentum": 0.3},
    ),
    "delayed": Algorithm(
        about="nobody waits, and momentum is refreshed once in several merges (arXiv 2401.09135)",
        merge={"outer": "delayed", "outer_rate": 0.7, "outer_momentum": 0.9, "refresh": 4},
        rounds={"quorum": 1, "deadline_s": 0.05, "staleness": 16},
    ),
}


def with_algorithm(name: AlgorithmName, given: dict[str, Any]) -> dict[str, Any]:
    """A plan's tables with an algorithm's fields where they say nothing themselves."""
    found = dict(given)
    for table, fields in ALGORITHMS[name].tables().items():
        own = given.get(table)
        found[table] = {**fields, **own} if isinstance(own, dict) else fields if own is None else own
    return found
