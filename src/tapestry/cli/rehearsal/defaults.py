"""What one would want to turn about a rehearsal, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tapestry.protocol.plan import Evaluation, Inner, Merge, Rounds, Witness

RUN: Final = "rehearsal"
TITLE: Final = "A rehearsal of faults"
MEMBERS: Final = 5
QUORUM: Final = 3
"""Of contributions and of witnesses: as many as are left at the end."""
TOTAL: Final = 2000
"""Merges of the plan; the run is ended when all has been shown."""
DEADLINE_S: Final = 90.0
"""A round waits so long for a node that says nothing. Longer than a fault lasts here, but for one: an update
that a node hands to a core that lies is lost for its round."""
REVEAL_S: Final = 30.0
"""So long may the bytes of an update take; longer than a link is away."""
WAIT_S: Final = 240.0
"""Anything that should come comes much sooner, also on a busy machine."""
CUT_AT: Final = 0.625
"""What part of an update goes up before the link is cut. The core keeps whole records of TLS."""
AWAY_S: Final = 5.0
LARGEST_NORM: Final = 40.0
"""Of an update; honest ones of this model are shorter than 5."""
LARGEST_OVERLAP: Final = 0.6
INFLUENCE_CAP: Final = 0.4
SEED: Final = 7


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the model is, and how much is done in a round."""

    hidden: int
    layers: int
    steps: int
    text_bytes: int
    """Of each member, at most."""
    last_merges: int
    """After the last fault."""

    @property
    def model(self) -> dict[str, Any]:
        """Values of the Hugging Face Llama configuration."""
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 8 // 3 // 8 * 8,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        }

    @property
    def inner(self) -> Inner:
        return Inner(
            steps=self.steps,
            sequence_length=64,
            batch_sequences=4,
            learning_rate=3e-3,
            warmup_steps=10,
            seed=SEED,
        )


FULL: Final = Size(hidden=32, layers=2, steps=20, text_bytes=400_000, last_merges=3)
QUICK: Final = Size(hidden=32, layers=1, steps=6, text_bytes=160_000, last_merges=1)


def rounds() -> Rounds:
    return Rounds(total=TOTAL, min_nodes=MEMBERS, quorum=QUORUM, deadline_s=DEADLINE_S, reveal_s=REVEAL_S)


def merge() -> Merge:
    return Merge(
        outer_rate=0.7,
        outer_momentum=0.6,
        influence_cap=INFLUENCE_CAP,
        largest_norm=LARGEST_NORM,
        largest_overlap=LARGEST_OVERLAP,
    )


def witness() -> Witness:
    return Witness(quorum=QUORUM)


def evaluation() -> Evaluation:
    return Evaluation(every_rounds=4, max_tokens=4096)
