"""Everything one would want to turn about the demo, in one place."""

from __future__ import annotations

from typing import Any, Final

from tapestry.protocol.algorithms import AlgorithmName, with_algorithm
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Evaluation, Inner, Merge, Retention, Rounds

RUN: Final = "demo"
"""Name of the run."""
TITLE: Final = "One shared base from members that keep their text"

NODES: Final = 3
ROUNDS: Final = 12
STEPS: Final = 80
CORPORA_ROUNDS: Final = 48
CORPORA_STEPS: Final = 20
"""Members of different languages drift apart in long rounds: the same steps, cut into more rounds."""
SEED: Final = 0

HIDDEN: Final = 128
LAYERS: Final = 2
HEADS: Final = 4
SEQUENCE: Final = 128
BATCH: Final = 8
LEARNING_RATE: Final = 2e-3
"""Measured: 4e-3 and 8e-3 leave the base 0.23 to 0.44 bits per byte worse after the same steps."""
WARMUP_STEPS: Final = 20
OUTER_RATE: Final = 1.0
OUTER_MOMENTUM: Final = 0.3
SHARD_BYTES: Final = 1 << 20
EVALUATE_TOKENS: Final = 1 << 14
"""Of each member's valid text, each round."""

SAMPLE_BYTES: Final = 240
SAMPLE_PROMPT: Final = "The "


def model_config() -> dict[str, Any]:
    """Values of the Hugging Face Llama configuration."""
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN * 8 // 3 // 8 * 8,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": SEQUENCE,
        "tie_word_embeddings": True,
    }


def rounds(*, total: int, nodes: int) -> Rounds:
    """Every round waits for every node: the demo's nodes are as fast as each other."""
    return Rounds(total=total, min_nodes=nodes, quorum=nodes, deadline_s=600.0, below_quorum="wait")


def algorithm(name: AlgorithmName | None, *, steps: int, seed: int) -> dict[str, Any]:
    """Inner loop, codec and merge: those of a published algorithm, or the demo's own."""
    own: dict[str, dict[str, Any]] = {
        "inner": {
            "steps": steps,
            "sequence_length": SEQUENCE,
            "batch_sequences": BATCH,
            "learning_rate": LEARNING_RATE,
            "warmup_steps": WARMUP_STEPS,
            "seed": seed,
        }
    }
    if name is None:
        own["merge"] = {"outer_rate": OUTER_RATE, "outer_momentum": OUTER_MOMENTUM}
    tables = own if name is None else with_algorithm(name, own)
    return {
        "inner": Inner(**tables["inner"]),
        "codec": Codec(**tables.get("codec", {})),
        "merge": Merge(**tables["merge"]),
    }


def evaluation() -> Evaluation:
    return Evaluation(every_rounds=1, max_tokens=EVALUATE_TOKENS)


def retention() -> Retention:
    return Retention()
