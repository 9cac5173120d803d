"""What is compared: settings (how large), methods (which rules of a plan), and the trials each is given.

Every method has as many trials as synchronous data parallel: learning rates times three. For data parallel
the three are batch sizes, for the others what is theirs: steps a round and outer rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any, Final, Literal

from tapestry.protocol.algorithms import ALGORITHMS

Kind = Literal["pooled", "alone", "rounds"]
"""`pooled`: each step takes the mean gradient of all members. `alone`: no member hears of another. `rounds`:
members train by themselves between merges."""

SYNCHRONOUS: Final = "synchronous"
MUON: Final = "synchronous-muon"
"""Not the reference; it tells what an algorithm owes to its inner optimizer."""
ALONE: Final = "alone"


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """What a trial turns."""

    learning_rate: float
    """Peak of the inner optimizer."""
    sequences: int
    """Of one step, over all members."""
    steps: int | None = None
    """Inner steps a round; None where there are no rounds."""
    outer_rate: float | None = None

    def describe(self) -> str:
        """In a few words, for tables."""
        words = [f"rate {self.learning_rate:g}", f"batch {self.sequences}"]
        if self.steps is not None:
            words.append(f"H {self.steps}")
        if self.outer_rate is not None:
            words.append(f"outer {self.outer_rate:g}")
        return ", ".join(words)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to train.

    Args:
        about: in a few words.
        kind: who hears of whom, and when.
        tables: fields of the plan's tables `inner`, `codec` and `merge`.
        variants: of a method in rounds: which of the setting's lengths of a round (0: the shortest), and the
            outer rate; as many as data parallel has batch sizes.
    """

    about: str
    kind: Kind
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    variants: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large a comparison is."""

    name: str
    model: dict[str, Any]
    """Values of the Hugging Face Llama configuration."""
    sequence_length: int
    tokens_per_parameter: float
    """Of the text all members train on together, repeats counted."""
    rates: tuple[float, ...]
    batches: tuple[int, ...]
    """Sequences of one step over all members; the last is a multiple of the others, the middle one is what
    methods in rounds take."""
    rounds: tuple[int, ...]
    """Steps a round, ascending."""
    languages: int
    """Where nothing else is asked for."""
    evaluate_tokens: int
    """Of each member's valid text."""
    points: int
    """Of the curve, the end among them."""
    shard_bytes: int = 1 << 20
    made_up: bool = False
    """Whether it has text of its own where no corpora are given."""

    def tokens(self, parameters: int, share: float = 1.0) -> int:
        """Of a run, or of a share of it: a whole number of steps at any of the batch sizes."""
        step = max(self.batches) * self.sequence_length
        return max(1, ceil(self.tokens_per_parameter * parameters * share / step)) * step

    def identity(self) -> dict[str, Any]:
        """What makes its trials comparable; the grid is not part of it."""
        left_out = ("rates", "batches", "rounds", "languages", "made_up")
        return {key: value for key, value in asdict(self).items() if key not in left_out}


def llama(hidden: int, layers: int, heads: int, sequence_length: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3 // 8 * 8,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": True,
    }


SETTINGS: Final = {
    "tiny": Setting(
        name="tiny",
        model=llama(32, 1, 2, 32),
        sequence_length=32,
        tokens_per_parameter=1.5,
        rates=(1e-2, 2e-2),
        batches=(4, 8, 16),
        rounds=(2, 4, 8),
        languages=2,
        evaluate_tokens=2048,
        points=3,
        shard_bytes=1 << 15,
        made_up=True,
    ),
    "small": Setting(
        name="small",
        model=llama(160, 3, 5, 128),
        sequence_length=128,
        tokens_per_parameter=20.0,
        rates=(1e-3, 2e-3, 4e-3),
        batches=(16, 32, 64),
        rounds=(5, 10, 30),
        languages=4,
        evaluate_tokens=1 << 15,
        points=6,
    ),
}
SETTINGS["short"] = replace(
    SETTINGS["small"], name="short", tokens_per_parameter=2.0, evaluate_tokens=1 << 14, points=3
)
"""A tenth of the tokens of `small`: what a machine of two cores can compare in an evening."""

_OUTER: Final[dict[str, tuple[tuple[int, float], ...]]] = {
    "fedavg": ((0, 1.0), (1, 1.0), (2, 1.0)),
    "diloco": ((1, 0.7), (2, 0.7), (2, 1.0)),
    "sparseloco": ((1, 1.0), (2, 1.0), (2, 0.65)),
    "muloco": ((1, 0.7), (2, 0.7), (2, 1.0)),
    "decoupled": ((1, 0.7), (2, 0.7), (2, 1.0)),
    "streaming": ((1, 0.7), (2, 0.7), (2, 1.0)),
    "movers": ((1, 1.0), (2, 1.0), (2, 0.7)),
}
_ELSE: Final = ((1, 1.0), (2, 1.0), (2, 0.7))
"""Of an algorithm that came later and is not named above."""

METHODS: Final[dict[str, Method]] = {
    SYNCHRONOUS: Method(about="data parallel: the mean gradient of all members every step", kind="pooled"),
    MUON: Method(
        about="data parallel with Muon inside instead of AdamW",
        kind="pooled",
        tables={"inner": {"optimizer": "muon"}},
    ),
    ALONE: Method(about="each member on its own text only", kind="alone"),
    **{
        name: Method(
            about=algorithm.about,
            kind="rounds",
            tables=algorithm.tables(),
            variants=_OUTER.get(name, _ELSE),
        )
        for name, algorithm in ALGORITHMS.items()
        if not algorithm.rounds  # an asynchronous one depends on who comes when, which nothing here tells
    },
}


def grid(method: Method, setting: Setting, rates: Sequence[float] | None = None) -> list[Knobs]:
    """Trials of a method, as many for each."""
    found = []
    for rate in rates or setting.rates:
        if method.kind == "rounds":
            middle = setting.batches[len(setting.batches) // 2]
            for length, outer in method.variants:
                steps = setting.rounds[length]
                found.append(Knobs(learning_rate=rate, sequences=middle, steps=steps, outer_rate=outer))
        else:
            found += [Knobs(learning_rate=rate, sequences=batch) for batch in setting.batches]
    return found
