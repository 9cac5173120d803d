"""The run plan: closed data that says what is trained, how, and by which rules it is merged.

A plan carries no code and no path. Whoever changes a field writes a new revision; `model`,
`initial_state`, `run` and `task` never change within a run.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1 << 40)]


class Rounds(Part):
    """When a round opens, closes and is given up. All times are by the core's clock."""

    total: Count
    """Rounds of the run; each ends with one merge."""
    min_nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The first round opens when this many nodes have enrolled."""
    quorum: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Accepted contributions a merge needs at least."""
    deadline_s: Positive = 3600.0
    """A round waits this long for every enrolled node; from then on a quorum is enough."""
    below_quorum: Literal["wait", "abandon"] = "wait"
    """After the deadline and below quorum: wait for more, or abandon the round and open the next."""


class Inner(Part):
    """What a node does between two merges."""

    steps: Count
    """Optimizer steps a round, the H of DiLoCo."""
    sequence_length: Annotated[int, Field(ge=8, le=1 << 20)] = 256
    """Tokens a sequence."""
    batch_sequences: Annotated[int, Field(ge=1, le=1 << 16)] = 8
    """Sequences of one forward pass."""
    accumulation: Annotated[int, Field(ge=1, le=1 << 12)] = 1
    """Forward passes of one optimizer step."""
    optimizer: Literal["adamw"] = "adamw"
    learning_rate: Positive = 2e-3
    """Peak, reached after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=1 << 30)] = 50
    final_fraction: Fraction = 0.1
    """Cosine decay ends at this fraction of the peak, at the last step of the last round."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.1
    clip_norm: Positive = 1.0
    seed: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] = 0
    """Orders the batches and seeds every generator, together with the node's name."""


class Merge(Part):
    """How contributions become the next base. The arithmetic is in docs/formats/merge.md."""

    weighting: Literal["tokens", "equal"] = "tokens"
    influence_cap: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """No member weighs more than this. Infeasible (an error) when members · cap < 1."""
    outer: Literal["nesterov", "fedavg"] = "nesterov"
    """`fedavg` is the special case rate 1, momentum 0."""
    outer_rate: Positive = 0.7
    outer_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.9

    @model_validator(mode="after")
    def _fedavg_is_fixed(self) -> Merge:
        if self.outer == "fedavg" and (self.outer_rate, self.outer_momentum) != (1.0, 0.0):
            raise ValueError("outer = fedavg needs outer_rate = 1 and outer_momentum = 0")
        return self


class Evaluation(Part):
    """Bits per byte of each shared base on each node's own valid text."""

    every_rounds: Count = 1
    max_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 1 << 16
    """Of the valid text, from its beginning."""


class Retention(Part):
    """What may be erased. Ledger entries hold hashes only and stay for good."""

    blob_rounds: Count = 1 << 20
    """Contributions of this many last rounds are kept, at the core and at each node; older ones are
    erased, and their merges cannot be repeated any more."""
    inner_rounds: Count = 2
    """Inner trainer state of this many last rounds is kept on its node."""


class Plan(Message):
    """A run plan as ratified; its digest is what contributions and decisions name."""

    format: Literal["tapestry.plan"] = "tapestry.plan"
    version: Literal[1] = 1

    run: Name
    revision: Annotated[int, Field(ge=1, le=1 << 20)] = 1
    title: Annotated[str, StringConstraints(max_length=200)] = ""
    task: Literal["causal-lm"] = "causal-lm"
    model: Sha256
    layout: Sha256
    initial_state: Sha256
    parameters: Count
    rounds: Rounds
    inner: Inner
    merge: Merge = Merge()
    evaluation: Evaluation = Evaluation()
    retention: Retention = Retention()
    sync: Literal["replay", "fetch"] = "replay"
    """How a node gets the next base: repeat the merge, or fetch the merged artifact."""
    privacy: Literal["visible"] = "visible"
    """Who sees a single contribution; sealed and differentially private runs come later."""
    visibility: Literal["members"] = "members"

    FIXED: ClassVar[tuple[str, ...]] = ("run", "task", "model", "layout", "initial_state", "parameters")
    """Fields that no revision may change."""

    @model_validator(mode="after")
    def _feasible(self) -> Plan:
        if self.rounds.quorum > self.rounds.min_nodes:
            raise ValueError(
                f"rounds.quorum {self.rounds.quorum} is above rounds.min_nodes {self.rounds.min_nodes}"
            )
        return self

    @property
    def round_tokens(self) -> int:
        """Tokens one node trains on in one round."""
        inner = self.inner
        return inner.steps * inner.accumulation * inner.batch_sequences * inner.sequence_length
