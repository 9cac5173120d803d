"""What a node measured of what its run's bases and updates give away of its text; docs/formats/leakage.md.

Numbers and digests, no text. Nobody can check them from afar: they are their owner's word.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import FailFast, Field, model_validator

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Open = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]
Positive = Annotated[int, Field(ge=1, le=1 << 40)]


class Interval(Part):
    """A figure and where it lies, at the report's confidence."""

    value: Number
    low: Number
    high: Number

    @model_validator(mode="after")
    def _in_order(self) -> Interval:
        if not self.low <= self.value <= self.high:
            raise ValueError("the value lies outside of its interval")
        return self


class Rate(Interval):
    """A figure from 0 to 1."""

    value: Fraction
    low: Fraction
    high: Fraction


class Inference(Part):
    """One target: how well windows that it was trained on are told from others."""

    subject: Literal["base", "own-update", "other-update"]
    """`other-update`: of another node, which was not trained on these windows: a control."""
    round: Count
    """That led to the base, or that the update is of."""
    node: Name | None
    """Whose update; none of a base."""
    target: Sha256
    """State or delta."""
    by: Literal["state", "model"]
    """What the target's losses are compared with: a state of the run, or a model that was given."""
    reference: Sha256
    """That state; of a model the hash of its `config.json` and of its weights, as this node has them."""
    steps: Count
    """Inner steps of the update; of a base 0."""
    others: Literal["valid", "train"]
    """Where windows that were not trained on come from: the valid text, or the train text that is still to
    come, which is the same text but for chance."""
    members: Count
    non_members: Count
    true_positives: Rate
    """At the report's false positives."""
    area: Rate
    """Below the ROC curve; 0.5 is chance."""
    blind: Rate
    """The same of the reference alone: away from 0.5, the two samples are different texts."""
    gain_members: Number
    """Bits per byte by which the target is better than the reference, in the mean."""
    gain_non_members: Number


class Exposure(Part):
    """Canaries of the node's text in one target."""

    subject: Literal["base", "own-update"]
    round: Count
    target: Sha256
    canaries: Positive
    candidates: Positive
    """That each is ranked among."""
    bits: Interval
    """Mean of their exposures."""
    highest: Number
    by_chance: Number
    """Mean of canaries that were never seen."""


class LeakageReport(Message):
    """One node's, of one run."""

    format: Literal["tapestry.leakage-report"] = "tapestry.leakage-report"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 16 << 20

    run: Name
    plan: Sha256
    member: Name
    node: Name
    at: Time
    """By the node's clock."""
    release: Annotated[str, Field(max_length=64)]
    """Of Tapestry."""
    data_manifest: Sha256 | None
    """Of the text, as the newest contribution of the node names it."""
    window_bytes: Annotated[float, Field(gt=0, le=1 << 30, allow_inf_nan=False)]
    """UTF-8 bytes of text in a window, in the mean."""
    window_tokens: Positive
    sequence_length: Positive
    false_positives: Open
    confidence: Open
    seed: Count
    """Of the windows and candidates that were drawn."""
    inference: Annotated[tuple[Inference, ...], FailFast(), Field(max_length=100_000)]
    exposure: Annotated[tuple[Exposure, ...], FailFast(), Field(max_length=100_000)]
