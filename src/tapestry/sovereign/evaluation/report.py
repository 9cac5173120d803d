"""The report of `tapestry eval`: figures of up to four models on the same text and prompts. Closed.

Format in prose: docs/formats/evaluation.md. Numbers and names; of the texts and answers only those that are
asked for (`examples`), and none of the training text.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from tapestry.protocol.canonical import Sha256
from tapestry.protocol.leakage import Interval
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Time

Role = Literal["model", "base", "previous", "alone"]
"""What is evaluated, and what it is compared with: the base it stands on, the build before it, the same
recipe on a model that only saw the member's own text."""
Measure = Literal[
    "bits-per-byte",
    "instructions",
    "preferences",
    "preferences-by-length",
    "constitution",
    "refusals",
    "still-answered",
    "memorized",
    "exposure",
    "survey-distance",
    "task",
]
LOWER_IS_BETTER: frozenset[str] = frozenset({"bits-per-byte", "memorized", "exposure", "survey-distance"})
SHARES: frozenset[str] = frozenset(
    {
        "instructions",
        "preferences",
        "preferences-by-length",
        "constitution",
        "refusals",
        "still-answered",
        "memorized",
    }
)
"""Measures from 0 to 1 that count things."""

Short = Annotated[str, StringConstraints(max_length=200)]
Line = Annotated[str, StringConstraints(max_length=1000)]
Count = Annotated[int, Field(ge=0, le=1 << 53)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Subject(Part):
    """One model."""

    role: Role
    name: Short
    weights: Sha256
    """`directory.weights_digest`."""
    tokenizer: Sha256
    parameters: Count
    model_type: Short


class Figure(Part):
    """One measure of one model on one part of the evaluation."""

    measure: Measure
    part: Short
    """A language, a task and its metric, an entry of the constitution, a community; empty for all."""
    role: Role
    count: Count
    """Documents, prompts, pairs or questions it is over."""
    of: Count
    """Bytes of text of bits per byte; else as `count`."""
    value: Interval


class Change(Part):
    """The model against another one on the same things: resampled in pairs, so narrower than two figures."""

    measure: Measure
    part: Short
    over: Role
    relative: bool
    """Of bits per byte: (other − model) / other. Of others: model − other, in the measure's unit."""
    value: Interval
    """Of bits per byte positive where the model is better; of others the plain difference."""


class Position(Part):
    """Where a model or a community stands on one scale of the survey."""

    who: Short
    """A role, or a community."""
    community: bool
    scale: Short
    value: Interval


class Distance(Part):
    """Of others to the survey's target community, to read the models' by."""

    who: Short
    """A community, or `at random`."""
    value: Interval


class Answered(Part):
    """A prompt and what the model said, where it broke something."""

    measure: Measure
    part: Short
    prompt: Line
    answer: Line
    said: Line
    """What was broken."""


class Unmet(Part):
    """A gate that the figures do not meet."""

    gate: Short
    part: Short
    wanted: Line
    got: Line


class Data(Part):
    """What the figures are over."""

    kind: Literal[
        "text", "instructions", "pairs", "survey", "constitution", "task", "canaries", "training-text"
    ]
    name: Short
    sha256: Sha256
    """Of the file; of text the data manifest of its folder."""
    card: Sha256 | None
    """Of its dataset card, where its right to evaluation was looked at."""


class Overlap(Part):
    """How much of what the figures are over the model was trained on, as far as its training text was at
    hand."""

    kind: Literal["text", "pairs"]
    name: Short
    """A language, or the file's name."""
    documents: Count
    trained_on: Count
    """Of these, the same to the byte."""


class EvaluationReport(Message):
    """All of it."""

    format: Literal["tapestry.evaluation-report"] = "tapestry.evaluation-report"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = 32 << 20

    at: Time
    """By this machine's clock."""
    release: Annotated[str, Field(max_length=64)]
    """Of Tapestry."""
    confidence: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    resamples: Count
    seed: Count
    isolation: Literal["netns", "process"]
    """Whether the models were loaded where there is no network, or only by code that uses none."""
    subjects: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=4)]
    data: Annotated[tuple[Data, ...], Field(max_length=10_000)]
    figures: Annotated[tuple[Figure, ...], Field(max_length=100_000)]
    changes: Annotated[tuple[Change, ...], Field(max_length=100_000)]
    positions: Annotated[tuple[Position, ...], Field(max_length=100_000)]
    distances: Annotated[tuple[Distance, ...], Field(max_length=1000)]
    answered: Annotated[tuple[Answered, ...], Field(max_length=10_000)]
    notes: Annotated[tuple[Line, ...], Field(max_length=1000)]
    """What has to be known to read the figures."""
    gates: Sha256 | None
    """Of the gates that were held against it, as canonical JSON; None where there were none."""
    unmet: Annotated[tuple[Unmet, ...], Field(max_length=10_000)]
    overlaps: Annotated[
        tuple[Overlap, ...], Field(max_length=10_000, exclude_if=lambda value: not value)
    ] = ()
    """Of each held-out text and file of pairs; none where it was not looked."""

    def find(self, measure: Measure, role: Role = "model") -> list[Figure]:
        """Figures of a measure, in their order."""
        return [each for each in self.figures if each.measure == measure and each.role == role]

    def changed(self, measure: Measure, over: Role) -> list[Change]:
        """What the model gained over another, in the figures' order."""
        return [each for each in self.changes if each.measure == measure and each.over == over]
