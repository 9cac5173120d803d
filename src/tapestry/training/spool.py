"""Files through which agent, trainer and gate meet. Closed messages, no free text, no path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Environment
from tapestry.protocol.plan import Plan

Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


class TrainJob(Message):
    """Agent → trainer: what to do next. The newest job wins."""

    format: Literal["tapestry.train-job"] = "tapestry.train-job"
    version: Literal[1] = 1
    run: Name
    plan: Plan
    round: Annotated[int, Field(ge=1, le=1 << 40)]
    """The round to train; one after the last, with train = False, scores the final base."""
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    state: Sha256
    base: Sha256
    """Digest of the base's `Artifact`, whose blobs lie in the node's blob folder."""
    train: bool
    evaluate: bool
    steps: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    """Of this round, for this node; the plan's if None."""
    merged_round: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    """With error feedback: the newest round whose merge holds a contribution of this node; what it sent in
    a later one returns."""

    @property
    def round_steps(self) -> int:
        """Inner steps to take."""
        return self.steps or self.plan.inner.steps_at(self.merges)


class TextScore(Part):
    """Bits per byte over the node's valid text."""

    bits_per_byte: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    bytes: Annotated[int, Field(ge=1, le=1 << 50)]


class TrainResult(Message):
    """Trainer → gate → agent: what came of a job."""

    format: Literal["tapestry.train-result"] = "tapestry.train-result"
    version: Literal[1] = 1
    run: Name
    plan: Sha256
    round: Annotated[int, Field(ge=1, le=1 << 40)]
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    state: Sha256
    fragment: FragmentNumber = 0
    """That the delta is of."""
    delta: Sha256 | None
    """Digest of the delta's `Artifact`; None when the job did not train."""
    tokens: Annotated[int, Field(ge=0, le=1 << 50)]
    steps: Annotated[int, Field(ge=0, le=1 << 40)]
    data_manifest: Sha256
    loss: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None
    """Mean over the last tenth of the steps, nats a token."""
    score: TextScore | None
    environment: Annotated[Environment, Field(max_length=16)]
    train_s: Seconds
    evaluate_s: Seconds
    encode_s: Seconds = 0.0
    """Taking the delta, encoding and writing it."""
    waited_s: Seconds = 0.0
    """Standing still between the round before and this one."""
