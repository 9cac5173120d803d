"""The run plan: closed data that says what is trained, how, and by which rules it is merged.

A plan carries no code and no path. Whoever changes a field writes a new revision; `model`,
`initial_state`, `run` and `task` never change within a run.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.message import Message, Part

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Cosine = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Pace = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1 << 40)]
TrainingStage = Literal["base", "contributed-cpt"]
MAX_STALENESS = 64
ANY_NORM = 1e9
KEPT_DIGESTS = 64


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
    reveal_s: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    """Nodes first say, signed, what they will send; when all have, or at the deadline, the round is sealed,
    and for so many seconds they send it: what nobody has seen nobody can copy. None, which its canonical form
    leaves out: bytes come at once."""
    staleness: Annotated[int, Field(ge=0, le=MAX_STALENESS)] = 0
    """Rounds that a contribution may come late and still enter the merge of the round then open; after that
    it is refused."""


class Stage(Part):
    """Another number of inner steps from some merge on."""

    after_merges: Count
    steps: Count


class Inner(Part):
    """What a node does between two merges."""

    steps: Count
    """Optimizer steps a round, the H of DiLoCo."""
    schedule: Annotated[tuple[Stage, ...], Field(max_length=256)] = ()
    """Where the steps a round change, in ascending order."""
    seconds: Positive | None = None
    """A round is over for a node after so many seconds of training, if `steps` are not done before. Such a
    round does not come out the same when it is repeated."""
    paces: Annotated[dict[Name, Pace], Field(max_length=4096)] = Field(default_factory=dict)
    """Members that take fewer steps a round, and what part of them."""
    sequence_length: Annotated[int, Field(ge=8, le=1 << 20)] = 256
    """Tokens a sequence."""
    batch_sequences: Annotated[int, Field(ge=1, le=1 << 16)] = 8
    """Sequences of one forward pass."""
    accumulation: Annotated[int, Field(ge=1, le=1 << 12)] = 1
    """Forward passes of one optimizer step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: for matrices that are no embeddings; AdamW for the rest."""
    rows: Literal["all", "own"] = Field(default="all", exclude_if=lambda value: value == "all")
    """`own`: of embeddings, a node sends the rows of tokens that its text has, and zeros for the others."""
    learning_rate: Positive = 2e-3
    """Peak, reached after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0, le=1 << 30)] = 50
    final_fraction: Fraction = 0.1
    """Cosine decay ends at this fraction of the peak, at the last step of the last round."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    muon_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.95
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.1
    clip_norm: Positive = 1.0
    seed: Annotated[int, Field(ge=0, le=(1 << 53) - 1)] = 0
    """Orders the batches and seeds every generator, together with the node's name."""

    @model_validator(mode="after")
    def _ascending(self) -> Inner:
        if any(a.after_merges >= b.after_merges for a, b in pairwise(self.schedule)):
            raise ValueError("schedule is not in ascending order of after_merges")
        return self

    def steps_at(self, merges: int, member: str | None = None) -> int:
        """Steps of the round after so many merges: of a member, or of one at full pace."""
        full = self.steps
        for stage in self.schedule:
            if stage.after_merges <= merges:
                full = stage.steps
        return max(1, round(full * self.paces.get(member, 1.0))) if member is not None else full

    def steps_before(self, merges: int) -> int:
        """Steps of all rounds up to so many merges, at full pace."""
        total, at, steps = 0, 0, self.steps
        for stage in self.schedule:
            if stage.after_merges >= merges:
                break
            total += (stage.after_merges - at) * steps
            at, steps = stage.after_merges, stage.steps
        return total + (merges - at) * steps

    def tokens_in(self, steps: int) -> int:
        """Tokens of so many steps."""
        return steps * self.accumulation * self.batch_sequences * self.sequence_length


class Merge(Part):
    """How contributions become the next base. The arithmetic is in docs/formats/merge.md."""

    weighting: Literal["tokens", "equal", "tokens-per-step"] = "tokens"
    """`tokens-per-step`: tokens² / steps."""
    staleness_factor: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    """What a late contribution weighs of what it would in time, once for each round it is late."""
    influence_cap: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """No member weighs more than this. Infeasible (an error) when members · cap < 1."""
    average: Literal["all", "senders", "movers"] = "all"
    """Over whom each element is averaged: all, those who sent it, or the effective number of those who moved
    it."""
    embedding_rows: Literal["all", "users"] = "all"
    """Over whom a row of an embedding is averaged: as `average` says, or those who sent anything of it."""
    clip: Literal["none", "median"] = "none"
    """Whether contributions longer than the median one are shortened to it."""
    largest_norm: Positive = ANY_NORM
    """A contribution whose values have a larger Euclidean norm is refused; the default measures none."""
    largest_overlap: Cosine | None = Field(default=None, exclude_if=lambda value: value is None)
    """A contribution whose |cosine| with one that was accepted before is larger is refused as a copy; see
    docs/formats/rounds.md. None compares nothing, and stands in no canonical form."""
    combine: Literal["mean", "directions"] = "mean"
    """`directions`: norms and directions of each tensor but embeddings are averaged apart."""
    outer: Literal["nesterov", "sgd", "fedavg", "delayed"] = "nesterov"
    """`sgd` keeps no momentum; `fedavg` is `sgd` of rate 1; `delayed` is Nesterov that refreshes its momentum
    once in `refresh` merges."""
    outer_rate: Positive = 0.7
    outer_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.9
    refresh: Annotated[int, Field(ge=1, le=4096)] = 1
    """Merges between two refreshes of the momentum, of one fragment; of `delayed`."""
    momentum_on_feedback: bool = False
    """Outer momentum and the codec's error feedback together, on purpose."""

    @property
    def keeps_momentum(self) -> bool:
        """Whether the outer step has a tensor of its own that is kept from merge to merge."""
        return self.outer in ("nesterov", "delayed")

    @model_validator(mode="after")
    def _fedavg_is_fixed(self) -> Merge:
        if self.outer == "fedavg" and (self.outer_rate, self.outer_momentum) != (1.0, 0.0):
            raise ValueError("outer = fedavg needs outer_rate = 1 and outer_momentum = 0")
        if self.influence_cap < 1.0 and (self.average != "all" or self.embedding_rows != "all"):
            raise ValueError(
                "influence_cap below 1 means nothing where an element is averaged over those who moved it: "
                'take average = "all" and embedding_rows = "all", or influence_cap = 1'
            )
        if self.outer == "sgd" and self.outer_momentum != 0.0:
            raise ValueError("outer = sgd needs outer_momentum = 0; nesterov has momentum")
        if self.refresh != 1 and self.outer != "delayed":
            raise ValueError("refresh is of outer = delayed alone: take refresh = 1, or outer = delayed")
        return self


class Streaming(Part):
    """Parts of the model that are merged in turn, and steps taken while a merge is on its way (Streaming
    DiLoCo, arXiv 2501.18512)."""

    fragments: Annotated[int, Field(ge=1, le=4096)] = 1
    """Each round merges one of so many, so that a fragment is merged every `fragments` · `inner.steps`
    steps."""
    overlap_steps: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """Steps of a round that a node takes before it has the base the round starts from, the τ of the paper."""
    mixing: Fraction = 0.0
    """Part of the node's own value that stays where a merged fragment comes in, the α of the paper."""

    @property
    def goes_on(self) -> bool:
        """Whether a node trains on from its own parameters, and not from the shared base."""
        return self.fragments > 1 or self.overlap_steps > 0

    @model_validator(mode="after")
    def _something_to_mix(self) -> Streaming:
        if self.mixing and not self.goes_on:
            raise ValueError("mixing means nothing without fragments or overlap_steps")
        return self


class Evaluation(Part):
    """Bits per byte of each shared base on each node's own valid text."""

    every_rounds: Count = 1
    max_tokens: Annotated[int, Field(ge=1, le=1 << 40)] = 1 << 16
    """Of the valid text, from its beginning."""


class Witness(Part):
    """Who must have cosigned a base before anybody trains from it."""

    quorum: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Members of whom a node has repeated the merge, found the same state and signed that. Among n members
    with f liars no two bases of one round both find a quorum above (n + f) / 2."""
    members: Annotated[tuple[Name, ...], Field(max_length=4096)] = ()
    """Whose word counts; everybody's if empty. They repeat every merge, whatever `sync` says."""

    def counts(self, member: str) -> bool:
        return not self.members or member in self.members

    @model_validator(mode="after")
    def _reachable(self) -> Witness:
        if len(set(self.members)) != len(self.members):
            raise ValueError("witness.members names a member twice")
        if self.members and self.quorum > len(self.members):
            raise ValueError(f"witness.quorum {self.quorum} is above the {len(self.members)} witness.members")
        return self


class Retention(Part):
    """What may be erased. Ledger entries hold hashes only and stay for good."""

    blob_rounds: Count = 1 << 20
    """Contributions of this many last rounds are kept, at the core and at each node; older ones are
    erased, and their merges cannot be repeated any more."""
    inner_rounds: Count = 2
    """Inner trainer state of this many last rounds is kept on its node."""


class Origin(Part):
    """Where a run begins that repeats another from the middle, since something in that is to be left out.
    Rounds, merges and schedules count on from there, so that what follows is what would have been."""

    run: Name
    """Of the same consortium."""
    round: Annotated[int, Field(ge=0, le=1 << 40)]
    """The last one that stays as it was; `initial_state` is what the one after it began with."""
    merges: Annotated[int, Field(ge=0, le=1 << 40)]
    """That led to that state."""
    plan: Sha256
    """In force when the one after it began."""


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
    codec: Codec = PLAIN
    """How deltas are written."""
    merge: Merge = Merge()
    streaming: Streaming = Streaming()
    witness: Witness = Witness()
    evaluation: Evaluation = Evaluation()
    retention: Retention = Retention()
    sync: Literal["replay", "fetch"] = "replay"
    """How a node gets the next base: repeat the merge, or fetch the merged artifact."""
    privacy: Literal["visible"] = "visible"
    """Who sees a single contribution; sealed and differentially private runs come later."""
    visibility: Literal["members"] = "members"
    stage: TrainingStage | None = Field(default=None, exclude_if=lambda value: value is None)
    """What the run is to a dataset, whose card says for which of them it may be used. None, which stands in
    no canonical form, is `base`."""
    origin: Origin | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a run that repeats another from the middle. None, of all others, stands in no canonical form."""

    FIXED: ClassVar[tuple[str, ...]] = (
        "run", "task", "model", "layout", "initial_state", "parameters", "stage", "origin",
    )  # fmt: skip
    """Fields that no revision may change."""

    @model_validator(mode="after")
    def _feasible(self) -> Plan:
        if self.rounds.quorum > self.rounds.min_nodes:
            raise ValueError(
                f"rounds.quorum {self.rounds.quorum} is above rounds.min_nodes {self.rounds.min_nodes}"
            )
        check_feedback(self.codec, self.merge, self.streaming)
        check_overlap(self.rounds, self.inner, self.streaming)
        check_witness(self.rounds, self.witness, self.sync)
        check_origin(self.run, self.rounds, self.origin)
        return self

    @property
    def merges_before(self) -> int:
        """That led to the initial state, in the run it is of."""
        return self.origin.merges if self.origin is not None else 0

    @property
    def rounds_before(self) -> int:
        """Of the run that this one repeats."""
        return self.origin.round if self.origin is not None else 0

    def begins(self, state: str) -> str:
        """Name of the run that a state is of, by its digest."""
        return self.origin.run if self.origin is not None and state == self.initial_state else self.run

    def repeats_merges(self, member: str) -> bool:
        """Whether a member's nodes repeat merges, rather than fetch what came of them."""
        return self.sync == "replay" or (bool(self.witness.members) and self.witness.counts(member))

    @property
    def digest(self) -> str:
        """As of every message; the last few are kept, since each contribution is held against one."""
        kept = _DIGESTS.get(id(self))
        if kept is None or kept[0] is not self:
            if len(_DIGESTS) >= KEPT_DIGESTS:
                _DIGESTS.clear()
            kept = _DIGESTS[id(self)] = (self, super().digest)
        return kept[1]

    @property
    def total_steps(self) -> int:
        """Inner steps of the whole run, at full pace."""
        return self.inner.steps_before(self.rounds.total)


_DIGESTS: dict[int, tuple[Plan, str]] = {}
"""By identity, not in the plan itself: `model_copy` would take it over into another plan."""


def check_overlap(rounds: Rounds, inner: Inner, streaming: Streaming) -> None:
    """Raise `ValueError` where some round is over before the base it starts from is due, or what is late
    would meet another fragment."""
    if rounds.staleness and streaming.fragments > 1:
        raise ValueError(
            "rounds.staleness needs streaming.fragments = 1: a late fragment's turn is a whole cycle later"
        )
    full = min([inner.steps, *(stage.steps for stage in inner.schedule)])
    fewest = max(1, round(full * min(inner.paces.values(), default=1.0)))
    if streaming.overlap_steps >= fewest:
        raise ValueError(
            f"streaming.overlap_steps {streaming.overlap_steps} is not below the {fewest} steps of the "
            "shortest round"
        )


def check_witness(rounds: Rounds, witness: Witness, sync: str) -> None:
    """Raise `ValueError` where the quorum of witnesses can never be had."""
    if witness.quorum > rounds.min_nodes:
        raise ValueError(
            f"witness.quorum {witness.quorum} is above rounds.min_nodes {rounds.min_nodes}: a run of so many "
            "nodes would stand still"
        )
    if witness.quorum and sync == "fetch" and not witness.members:
        raise ValueError(
            "witness.quorum needs nodes that repeat merges: name them in witness.members, or take "
            'sync = "replay"'
        )


def check_origin(run: str, rounds: Rounds, origin: Origin | None) -> None:
    """Raise `ValueError` where a run would repeat itself, or nothing."""
    if origin is None:
        return
    if origin.run == run:
        raise ValueError("a run cannot repeat itself: give it a name other than origin.run")
    if origin.merges > origin.round:
        raise ValueError(f"origin.round {origin.round} cannot have led to {origin.merges} merges")
    if rounds.total <= origin.merges:
        raise ValueError(f"rounds.total {rounds.total} is not above origin.merges {origin.merges}")


def check_feedback(codec: Codec, merge: Merge, streaming: Streaming) -> None:
    """Raise `ValueError` where something would be sent twice: outer momentum and error feedback together by
    accident, or a node that keeps in its parameters what it also keeps in its residual."""
    if codec.error_feedback is not None and streaming.mixing:
        raise ValueError(
            "codec.error_feedback keeps what was not sent, and so would streaming.mixing: take mixing = 0"
        )
    if codec.error_feedback is None or merge.outer_momentum == 0.0 or merge.momentum_on_feedback:
        return
    raise ValueError(
        "codec.error_feedback sends late what outer momentum then amplifies: take merge.outer = sgd with "
        "outer_momentum = 0, or set merge.momentum_on_feedback = true to have both"
    )
