"""What crosses between a `Replayer` and its worker: one canonical JSON message a line, each way.

The worker speaks first (`Ready`, or a `Failure` where it cannot start). Then each `MergeJob` is
answered by a `MergeResult`, each `ScreenJob` by `Screened`, each `OverlapJob` by `Overlapped`, any of them
by a `Failure` instead.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import FailFast, Field, model_validator

from tapestry.errors import TapestryError, by_code
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import FragmentNumber
from tapestry.protocol.message import Message, Part
from tapestry.protocol.messages import Merged, RoundNumber
from tapestry.protocol.plan import Merge, Plan
from tapestry.rounds.weights import UNIT

MAX_LINE_BYTES = 8 << 20
MAX_OTHERS = 1 << 16
"""Deltas that one is compared with at a time."""


class MergeJob(Message):
    """One merge. Everything is named by digest and lies in the blob folder."""

    format: Literal["tapestry.merge-job"] = "tapestry.merge-job"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = MAX_LINE_BYTES

    run: Name
    model: Sha256
    layout: Sha256
    state: Sha256
    """The state before."""
    merge: Merge
    codec: Codec = PLAIN
    """How the contributions are written."""
    contributions: Annotated[tuple[Merged, ...], FailFast(), Field(min_length=1, max_length=10_000)]
    """In (member, node) order; the weights add up to 2^24."""
    durable: bool
    """Whether the new state is on disk for good when the answer comes."""
    origin: Name | None = Field(default=None, exclude_if=lambda value: value is None)
    """Run that the state before is of, where that is another: this merge is the first of a run that repeats
    that one."""

    @classmethod
    def of(cls, plan: Plan, *, state: str, contributions: tuple[Merged, ...], durable: bool) -> Self:
        """The merge of a round under `plan`."""
        return cls(
            run=plan.run,
            model=plan.model,
            layout=plan.layout,
            state=state,
            merge=plan.merge,
            codec=plan.codec,
            contributions=contributions,
            durable=durable,
            origin=run if (run := plan.begins(state)) != plan.run else None,
        )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        keys = [(merged.member, merged.node) for merged in self.contributions]
        if any(a >= b for a, b in pairwise(keys)):
            raise ValueError("contributions are not in strictly ascending (member, node) order")
        total = sum(merged.weight for merged in self.contributions)
        if total != UNIT:
            raise ValueError(f"weights add up to {total}, not to {UNIT}")
        return self


class MergeResult(Message):
    """The new state, whose blobs lie in the folder."""

    format: Literal["tapestry.merge-result"] = "tapestry.merge-result"
    version: Literal[1] = 1

    state: Sha256
    base: Sha256
    outer: Sha256 | None
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_bytes: Annotated[int, Field(ge=0)]
    """Shard bytes of contributions, base and momentum that were read."""


class SketchAt(Part):
    """Under which run and round a delta's sketch is kept, and the secret it is drawn with."""

    seed: Sha256
    """Not a digest, but as many hexadecimal digits. It must not reach anybody who sends deltas."""
    run: Name
    round: RoundNumber


class ScreenJob(Message):
    """Look at a delta's form and finiteness."""

    format: Literal["tapestry.screen-job"] = "tapestry.screen-job"
    version: Literal[1] = 1

    delta: Sha256
    layout: Sha256
    codec: Codec = PLAIN
    fragment: FragmentNumber = 0
    largest_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sketch: SketchAt | None = None
    """Draw its sketch on the way, and keep it."""


class Screened(Message):
    """The delta is well-formed and finite."""

    format: Literal["tapestry.screened"] = "tapestry.screened"
    version: Literal[1] = 1


class Sketched(Part):
    """An accepted update whose sketch may be there."""

    round: RoundNumber
    delta: Sha256
    own: bool
    """Whether it is of the node whose delta is looked at; where one of a round is, that round's others are
    looked at beyond what they have in common."""


class OverlapJob(Message):
    """Is a delta, whose sketch is there, like an update of its run that was accepted before?"""

    format: Literal["tapestry.overlap-job"] = "tapestry.overlap-job"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = MAX_LINE_BYTES

    seed: Sha256
    run: Name
    round: RoundNumber
    delta: Sha256
    largest: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """The plan's `merge.largest_overlap`."""
    others: Annotated[tuple[Sketched, ...], FailFast(), Field(max_length=MAX_OTHERS)]
    """Those of a round stand together."""


Number = Annotated[int, Field(ge=0, lt=MAX_OTHERS)]


class Overlapped(Message):
    """The overlap that comes nearest to being too large, or is too large by most."""

    format: Literal["tapestry.overlapped"] = "tapestry.overlapped"
    version: Literal[1] = 1
    MAX_BYTES: ClassVar[int] = MAX_LINE_BYTES

    nearest: Number | None = None
    """Which of the others; None where there are none."""
    overlap: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    allowed: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0
    lacking: Annotated[tuple[Number, ...], FailFast()] = ()
    """Which of the others have no sketch here."""

    @property
    def copied(self) -> bool:
        return self.overlap > self.allowed


class Ready(Message):
    """The worker's first line."""

    format: Literal["tapestry.replay-ready"] = "tapestry.replay-ready"
    version: Literal[1] = 1

    isolation: Literal["netns", "process"]


class Failure(Message):
    """An error of the tree, by its code."""

    format: Literal["tapestry.replay-failure"] = "tapestry.replay-failure"
    version: Literal[1] = 1

    code: str
    message: str
    hint: str | None

    @classmethod
    def of(cls, error: TapestryError) -> Failure:
        return cls(code=error.code, message=error.message, hint=error.hint)

    def error(self) -> TapestryError:
        return by_code(self.code)(self.message, hint=self.hint)
