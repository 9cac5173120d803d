"""How large a study is, what may be chosen in it, and which text is for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from benchmarks.parity.methods import llama

CUT: Final = 10
"""Members who are made data-poor have one part in so many of the text."""
SHORT: Final = 0.25
"""Of the steps that everybody may take: the short schedule that every training may choose."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is."""

    model: dict[str, Any]
    sequence_length: int
    sequences: int
    """Of one step of one member."""
    shared_steps: int
    private_steps: int
    round_steps: int
    points: int
    """At which a model is scored, for early stopping."""
    text_bytes: int
    """That a member has to train on; those cut to a tenth have a tenth of it."""
    every: int = 2
    """One document of so many is contributed."""
    poor_pace: float = 0.1
    """Of a round's steps: what members with a tenth of the text take."""
    merge: dict[str, Any] = field(default_factory=lambda: dict(MERGE))
    rows: str = "own"
    """Of embeddings: which rows a member sends."""
    base_rate: float = 4e-3
    """Peak of the members' steps in the run; not tuned."""
    axes: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=lambda: AXES)
    """What is tuned, by method."""
    selection: int = 1 << 14
    """Tokens of the part of the held-out text that chooses."""
    test: int = 1 << 16
    """And of the part that is reported."""

    @property
    def steps(self) -> int:
        """That a member who keeps pace takes on its own machine."""
        return self.shared_steps + self.private_steps


MERGE: Final = {
    "combine": "directions",
    "embedding_rows": "users",
    "outer": "nesterov",
    "outer_rate": 0.7,
    "outer_momentum": 0.8,
    "weighting": "equal",
}
"""How members with eight scripts came to learn together at all; see the lab log."""
AXES: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "sovereign": {"length": (1.0, SHORT), "rate": (2e-3, 4e-3, 8e-3)},
    "whole": {"length": (1.0, SHORT), "rate": (2e-3, 4e-3, 8e-3)},
    "alone": {"length": (1.0, SHORT), "rate": (4e-3, 8e-3), "shape": ("same", "half", "wider")},
}
"""Tuned one after the other, each with the best of the others so far; the first of each to begin with.
`length`: of the schedule, as a part of the steps that may be taken."""
MORE_AXES: Final = {
    method: {**axes, "rate": (4e-3, 2e-3, 8e-3) if method == "alone" else (2e-3, 5e-4, 4e-3, 8e-3)}
    for method, axes in AXES.items()
}
SHAPES: Final = {"half": 0.5, "same": 1.0, "wider": 1.5}
"""Widths, as parts of the shared base's."""
SIZES: Final = {
    "tiny": Size(
        model=llama(32, 1, 2, 32),
        sequence_length=32,
        sequences=4,
        shared_steps=20,
        private_steps=16,
        round_steps=10,
        points=3,
        text_bytes=20_000,
    ),
    "small": Size(
        model=llama(64, 2, 4, 128),
        sequence_length=128,
        sequences=8,
        shared_steps=600,
        private_steps=200,
        round_steps=10,
        points=10,
        text_bytes=60_000,
        base_rate=8e-3,
    ),
    "brief": Size(
        model=llama(64, 2, 4, 128),
        sequence_length=128,
        sequences=8,
        shared_steps=320,
        private_steps=320,
        round_steps=10,
        points=10,
        text_bytes=60_000,
        base_rate=8e-3,
        axes=MORE_AXES,
    ),
}


def shaped(model: Mapping[str, Any], shape: str) -> dict[str, Any]:
    """The model's configuration at another width; heads stay as wide as they are."""
    heads = max(1, round(model["num_attention_heads"] * SHAPES[shape]))
    wide = model["hidden_size"] // model["num_attention_heads"] * heads
    return llama(wide, model["num_hidden_layers"], heads, model["max_position_embeddings"])


def cut(
    source: Path, out: Path, most_bytes: int, every: int, *, number: int = 0, of: int = 1
) -> dict[str, Path]:
    """Folders of one member's text by what it is for: documents take turns, so none is in two parts.

    Args:
        source: with `train.jsonl` and `valid.jsonl`.
        out: folder to make.
        most_bytes: of the documents to train on that the member has at all.
        every: one of so many is contributed.
        number: of this member among those who share the language; documents go to them in turn.
        of: how many they are.
    """
    train = (source / "train.jsonl").read_text(encoding="utf-8").splitlines()[number::of]
    valid = (source / "valid.jsonl").read_text(encoding="utf-8").splitlines()[number::of]
    sizes = accumulate(len(line.encode()) for line in train)
    train = train[: max(every, sum(size <= most_bytes for size in sizes))]
    parts = {
        "contributed": (train[::every], valid[::2]),
        "private": ([line for n, line in enumerate(train) if n % every], valid[::2]),
        "all": (train, valid[::2]),
        "test": (train[:2], valid[1::2]),
    }
    for name, (first, second) in parts.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "train.jsonl").write_text("\n".join(first) + "\n", encoding="utf-8")
        (out / name / "valid.jsonl").write_text("\n".join(second) + "\n", encoding="utf-8")
    return {name: out / name for name in parts}
