"""Everything one would want to turn about the demo, in one place."""

from __future__ import annotations

from typing import Any, Final

from tapestry.protocol.algorithms import ALGORITHMS, AlgorithmName, with_algorithm
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Evaluation, Inner, Merge, Retention, Rounds, Streaming, Witness

RUN: Final = "demo"
"""Name of the run."""
TITLE: Final = "One shared base from members that keep their text"

NODES: Final = 3
ROUNDS: Final = 48
STEPS: Final = 20
"""Members drift apart in long rounds: as many steps in 12 rounds of 80 leave the base 0.05 bits per byte
worse (docs/lab-log.md)."""
SCORES: Final = 12
"""Of the base, over the whole run."""
OPTIMIZER: Final = "muon"
"""At the same rate a member alone gains 0.08 bits per byte on AdamW, and the shared base 0.12."""
SEED: Final = 0
REPEATED: Final = 16
"""Merges that the demo repeats once more at its end, the newest: about 0.1 s each on two cores."""

HIDDEN: Final = 128
LAYERS: Final = 2
HEADS: Final = 4
SEQUENCE: Final = 128
BATCH: Final = 8
LEARNING_RATES: Final = {"adamw": 2e-3, "muon": 8e-3}
"""By inner optimizer; 4e-3 and 8e-3 with AdamW leave the base 0.23 to 0.44 bits per byte worse after the same
steps, with Muon 2e-3 0.09 and 16e-3 0.04 (docs/lab-log.md)."""
WARMUP_STEPS: Final = 20
OUTER_RATE: Final = 0.9
OUTER_MOMENTUM: Final = 0.4
"""MuLoCo's 0.7 and 0.6 (arXiv 2505.23725) leave the base 0.004 bits per byte worse here."""
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


def algorithm(name: AlgorithmName | None, *, total: int, nodes: int, steps: int, seed: int) -> dict[str, Any]:
    """Rounds, inner loop, codec, merge and streaming: those of a published algorithm, or the demo's own.

    Every round waits for every node, as the demo's are as fast as each other, unless the algorithm says
    otherwise: then a merge holds one update, and there are as many times the merges. A model in fragments has
    as many times the rounds, each shorter: every part is merged as often as without.
    """
    known = ALGORITHMS[name] if name is not None else None
    fragments = known.streaming.get("fragments", 1) if known is not None else 1
    asynchronous = known is not None and "quorum" in known.rounds
    waiting = {"quorum": nodes, "deadline_s": 600.0, "below_quorum": "wait", "reveal_s": 600.0}
    own: dict[str, dict[str, Any]] = {
        "rounds": {
            "total": total * fragments * (nodes if asynchronous else 1),
            "min_nodes": nodes,
            **({} if asynchronous else waiting),
        },
        "inner": {
            "steps": max(1, steps // fragments),
            "sequence_length": SEQUENCE,
            "batch_sequences": BATCH,
            "warmup_steps": WARMUP_STEPS,
            "seed": seed,
        },
    }
    if name is None:
        own["inner"]["optimizer"] = OPTIMIZER
        own["merge"] = {"outer_rate": OUTER_RATE, "outer_momentum": OUTER_MOMENTUM}
    tables = own if name is None else with_algorithm(name, own)
    tables["inner"]["learning_rate"] = LEARNING_RATES[tables["inner"].get("optimizer", "adamw")]
    if streaming := tables.get("streaming"):
        short = own["inner"]["steps"] - 1
        tables["streaming"] = {**streaming, "overlap_steps": min(streaming["overlap_steps"], short)}
    if asynchronous:
        tables["merge"] = {**tables["merge"], "refresh": nodes}
    return {
        "rounds": Rounds(**tables["rounds"]),
        "inner": Inner(**tables["inner"]),
        "codec": Codec(**tables.get("codec", {})),
        "merge": Merge(**tables["merge"]),
        "streaming": Streaming(**tables.get("streaming", {})),
    }


def evaluation(total: int) -> Evaluation:
    return Evaluation(every_rounds=max(1, total // SCORES), max_tokens=EVALUATE_TOKENS)


def witness(nodes: int) -> Witness:
    """A majority of the members, as a plan file that names none."""
    return Witness(quorum=nodes // 2 + 1)


def retention() -> Retention:
    return Retention()
