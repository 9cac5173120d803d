"""One trial in one process, of the system's own parts: corpus, model, inner optimizer, delta encoding, merge.

Nothing crosses a network; what would cross is counted from the blobs that were written. n: members.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from torch import Tensor

from benchmarks.parity.methods import Knobs, Method, Setting
from benchmarks.parity.traffic import Traffic, artifact_bytes
from tapestry.codec.shards import ShardCodec
from tapestry.errors import ArtifactError, Diverged, SettingsError
from tapestry.merge.scalars import fp32
from tapestry.protocol.artifact import Artifact, Blob, State
from tapestry.protocol.encoding import Codec
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Rounds, Stage, Streaming
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import Share, merge_weights
from tapestry.storage.blobs import BlobStore
from tapestry.tensors import shards
from tapestry.training.corpus import Corpus
from tapestry.training.island import CPU, Island
from tapestry.training.loaded import Loaded
from tapestry.training.model import initial_state
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.own_rows import OwnRows
from tapestry.training.task import CausalLM

RUN: Final = "parity"
WARMUP: Final = 0.05
"""Of all steps, whatever the batch size."""
NOBODY: Final = "0" * 64
"""In place of an envelope's digest: nobody signs here."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What all trials of a comparison have in common.

    Args:
        setting: how large.
        corpora: by member, in the order of names.
        scratch: folder for blobs; each trial clears what it wrote.
        device: where models are trained.
    """

    setting: Setting
    corpora: Mapping[str, Corpus]
    scratch: Path
    device: torch.device = CPU

    @cached_property
    def parameters(self) -> int:
        """Trained parameters of the model."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            return self._initial(BlobStore.open(folder), 0, 1).parameters

    def plan(self, store: BlobStore, method: Method, knobs: Knobs, *, seed: int, share: float = 1.0) -> Plan:
        """The run that a trial is; its initial artifact, which depends on the seed alone, is put into
        `store`. Raises `SettingsError` for a batch that members cannot share evenly."""
        of = self.setting
        each, left = divmod(knobs.sequences, len(self.corpora))
        if left or not each:
            raise SettingsError(
                f"{len(self.corpora)} members cannot share a batch of {knobs.sequences} evenly",
                hint="choose another number of languages",
            )
        tables = method.tables
        streaming = Streaming(**tables.get("streaming", {}))
        seen = self._initial(store, seed, streaming.fragments)
        total = of.tokens(seen.parameters, share) // (knobs.sequences * of.sequence_length)
        length = min(max(1, (knobs.steps or total) // streaming.fragments), total)
        if streaming.goes_on:  # a short trial has no room for all of the steps ahead
            streaming = streaming.model_copy(
                update={"overlap_steps": min(streaming.overlap_steps, length - 1)}
            )
        rounds = -(-total // length)
        last = total - (rounds - 1) * length
        if streaming.overlap_steps >= last:  # a round as short as that joins the one before
            rounds, last = max(1, rounds - 1), last + (length if rounds > 1 else 0)
        inner = {
            "steps": length if rounds > 1 else last,
            "schedule": (Stage(after_merges=rounds - 1, steps=last),)
            if last != length and rounds > 1
            else (),
            "sequence_length": of.sequence_length,
            "batch_sequences": each,
            "learning_rate": knobs.learning_rate,
            "warmup_steps": max(1, round(total * WARMUP)),
            "seed": seed,
            **tables.get("inner", {}),
        }
        merge = dict(tables.get("merge", {}))
        if knobs.outer_rate is not None:
            merge["outer_rate"] = knobs.outer_rate
        return Plan(
            run=RUN,
            model=seen.model,
            layout=seen.layout,
            initial_state=seen.state,
            parameters=seen.parameters,
            rounds=Rounds(total=rounds, min_nodes=len(self.corpora), quorum=len(self.corpora)),
            inner=Inner(**inner),
            codec=Codec(**tables.get("codec", {})),
            merge=Merge(**merge),
            streaming=streaming,
            evaluation=Evaluation(max_tokens=of.evaluate_tokens),
        )

    def _initial(self, store: BlobStore, seed: int, fragments: int) -> _Initial:
        of = self.setting
        model, layout, state, parameters = initial_state(
            RUN, of.model, "byte", seed, of.shard_bytes, store, fragments=fragments
        )
        return _Initial(model.digest, layout.digest, state.digest, parameters)


@dataclass(frozen=True)
class _Initial:
    model: str
    layout: str
    state: str
    parameters: int


@dataclass(kw_only=True)
class Outcome:
    """What a trial found. Scores are bits per byte by member; bytes are those of one member, in the mean."""

    parameters: int
    steps: int
    rounds: int
    initial: str
    """SHA-256 of the initial parameters, the same however they are cut."""
    traffic: Traffic
    scores: dict[str, float] = field(default_factory=dict)
    """Of the outer parameters, each on that member's valid text; alone: of the member's own model."""
    on_all: float | None = None
    """Alone: mean over models and all members' text."""
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    """Tokens, bytes sent and received, mean score."""
    diverged: str | None = None
    """Why it ended early."""


def run(world: World, method: Method, knobs: Knobs, *, seed: int, share: float = 1.0) -> Outcome:
    """One trial. A run that diverges is an outcome, too; other errors are raised.

    Args:
        world: text, model, device.
        method: how.
        knobs: with which numbers.
        seed: of the initial parameters and of the order of the text.
        share: of the setting's tokens.
    """
    folder = Path(tempfile.mkdtemp(dir=world.scratch, prefix="trial-"))
    try:
        store = BlobStore.open(folder)
        plan = world.plan(store, method, knobs, seed=seed, share=share)
        trial = Trial(world, store, plan)
        try:
            {"pooled": trial.pooled, "alone": trial.alone, "rounds": trial.rounds}[method.kind]()
        except (Diverged, ArtifactError) as e:
            trial.outcome.diverged = e.message
        return trial.outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """One model in memory that is each member's in turn; moments and residuals are each member's own."""

    def __init__(self, world: World, store: BlobStore, plan: Plan) -> None:
        self.store = store
        self.plan = plan
        self.points = world.setting.points
        self.island = Island(device=world.device)
        self.loaded = Loaded.read(store, plan.model, self.island)
        self.tasks = {name: CausalLM(plan, corpus, name) for name, corpus in world.corpora.items()}
        self._own = {name: OwnRows.of(plan, corpus) for name, corpus in world.corpora.items()}
        self.state = State.from_bytes(store.read(plan.initial_state))
        self.residuals: dict[str, dict[int, Tensor]] = {name: {} for name in self.tasks}
        base = self.loaded.load_base(store, self.state.base)
        self.base_bytes = artifact_bytes(base)
        self.outcome = Outcome(
            parameters=plan.parameters,
            steps=plan.total_steps,
            rounds=0,
            initial=self._fingerprint(),
            traffic=Traffic(members=len(self.tasks)),
        )
        self._kept = self._blobs(self.state)
        self.loaded.module.train()

    # -- ways to train ------------------------------------------------------------------------

    def pooled(self) -> None:
        """Synchronous data parallel: all members' batches in every step, gradients by ring all-reduce."""
        self.outcome.traffic.warm_start(self.base_bytes)
        optimizer, at = self._optimizer(), 0
        for mark in self._marks(self.plan.total_steps):
            self._train(optimizer, list(self.tasks.values()), at, mark)
            self.outcome.traffic.all_reduce(mark - at, self.plan.parameters)
            at = mark
            self._point(at)

    def alone(self) -> None:
        """Each member its own model; scored on the member's own text, at the end on everybody's."""
        marks = self._marks(self.plan.total_steps)
        own: list[list[float]] = []
        everywhere = []
        for name, task in self.tasks.items():
            self.loaded.load_base(self.store, self.state.base)
            optimizer, at, scores = self._optimizer(), 0, []
            for mark in marks:
                self._train(optimizer, [task], at, mark)
                at = mark
                scores.append(self._score(name))
            own.append(scores)
            everywhere.append(fmean(self._score(other) for other in self.tasks))
            self.outcome.scores[name] = scores[-1]
        self.outcome.traffic.warm_start(self.base_bytes)
        self.outcome.on_all = fmean(everywhere)
        self.outcome.curve = [
            (self._tokens(mark), self.outcome.traffic.total, fmean(of_mark))
            for mark, of_mark in zip(marks, zip(*own, strict=True), strict=True)
        ]

    def rounds(self) -> None:
        """Each round every member trains from the base, and the engine merges what they send."""
        plan, engine = self.plan, Engine(self.store, threads=1)
        self.outcome.traffic.warm_start(self.base_bytes)
        optimizers = {name: self._optimizer() for name in self.tasks}
        own: dict[str, dict[str, Tensor]] = {}
        marks = set(self._marks(plan.rounds.total))
        while self.state.merges < plan.rounds.total:
            deltas = {}
            for name, task in self.tasks.items():
                base = self.loaded.load_base(self.store, self.state.base)
                start = plan.inner.steps_before(self.state.merges)
                if name in own:
                    self.loaded.rows.restore(own[name])
                    start = self._join(optimizers[name], task, start, base)
                steps = plan.inner.steps_at(self.state.merges, name)
                end = plan.inner.steps_before(self.state.merges) + steps
                self._train(optimizers[name], [task], start, end)
                deltas[name] = self._send(name, base)
                if plan.streaming.goes_on:
                    own[name] = self.loaded.rows.copies()
            self._merge(engine, deltas)
            self.outcome.rounds = self.state.merges
            if self.state.merges in marks:
                self.loaded.load_base(self.store, self.state.base)
                self._point(plan.inner.steps_before(self.state.merges))

    # -- parts of them ------------------------------------------------------------------------

    def _fingerprint(self) -> str:
        found = hashlib.sha256()
        for parameter in self.loaded.parameters.values():
            found.update(parameter.detach().cpu().numpy().tobytes())
        return found.hexdigest()

    def _join(self, optimizer: InnerOptimizer, task: CausalLM, start: int, base: Artifact) -> int:
        """Steps ahead of the base, and then what the last merge changed; the step after them."""
        streaming = self.plan.streaming
        end = start + streaming.overlap_steps
        self._train(optimizer, [task], start, end)
        fragment = self.loaded.layout.fragment_at(self.state.merges - 1)
        self.loaded.take(self.store, base, fragment.shards, keep=streaming.mixing)
        return end

    def _optimizer(self) -> InnerOptimizer:
        return InnerOptimizer(self.loaded.parameters, self.plan.inner, self.plan.codec.is_embedding)

    def _length(self) -> int:
        """Steps of the round at hand."""
        return self.plan.inner.steps_at(self.state.merges)

    def _train(self, optimizer: InnerOptimizer, tasks: Sequence[CausalLM], start: int, end: int) -> None:
        """Steps `start` to `end` of the run, each on a batch of every task. Raises `Diverged`."""
        inner = self.plan.inner
        for step in range(start, end):
            position = step * inner.batch_sequences
            batch = torch.cat([task.batch(position) for task in tasks]).to(self.island.device)
            loss = tasks[0].loss(self.loaded.module, batch)
            torch.autograd.backward(loss)
            if not math.isfinite(loss.item()):
                raise Diverged(f"the loss of step {step + 1} is not finite")
            optimizer.step(learning_rate(inner, step, self.plan.total_steps))

    def _send(self, member: str, base: Artifact) -> Artifact:
        """A member's delta as it is sent, put into the store; what is not sent stays with the member."""
        settings = self.plan.codec
        codec, kept = ShardCodec(settings), self.residuals[member]
        blobs = []
        fragment = self.loaded.layout.fragment_at(self.state.merges)
        own = self._own[member]
        for shard, data in self.loaded.deltas(self.store, base, fragment.shards, own=own):
            sent: bytes | bytearray = data
            if not settings.plain:
                values = shards.values(shard, data)
                if settings.error_feedback is not None and shard.index in kept:
                    values.add_(kept[shard.index].mul_(fp32(settings.error_feedback)))
                sent = codec.encode_(shard, values)
                if settings.error_feedback is not None:
                    kept[shard.index] = values
            blobs.append(Blob(sha256=self.store.put(sent, durable=False), bytes=len(sent)))
        delta = Artifact(kind="delta", layout=self.plan.layout, shards=tuple(blobs))
        self.store.put(delta.to_bytes(), durable=False)
        return delta

    def _merge(self, engine: Engine, deltas: Mapping[str, Artifact]) -> None:
        """The next state; the blobs of the round go."""
        plan = self.plan
        taken = {name: plan.inner.steps_at(self.state.merges, name) for name in deltas}
        shares = [
            Share(member=name, node=name, tokens=plan.inner.tokens_in(steps), steps=steps)
            for name, steps in taken.items()
        ]
        weights = merge_weights(
            shares, weighting=plan.merge.weighting, influence_cap=plan.merge.influence_cap
        )
        merged = tuple(
            Merged(node=name, member=name, contribution=NOBODY, delta=delta.digest, weight=weight)
            for (name, delta), weight in zip(deltas.items(), weights, strict=True)
        )
        before = self._blobs(self.state)
        job = MergeJob.of(plan, state=self.state.digest, contributions=merged, durable=False)
        self.state = State.from_bytes(self.store.read(engine.merge(job).state))
        self.outcome.traffic.replay([artifact_bytes(delta) for delta in deltas.values()], self.base_bytes)
        for delta in deltas.values():
            before |= {delta.digest, *(blob.sha256 for blob in delta.shards)}
        self.store.delete_all(before - self._kept - self._blobs(self.state))

    def _blobs(self, state: State) -> set[str]:
        """Addresses of a state, its artifacts and their shards."""
        found = {state.digest}
        for sha in (state.base, state.outer):
            if sha is not None:
                artifact = Artifact.from_bytes(self.store.read(sha))
                found |= {sha, *(blob.sha256 for blob in artifact.shards)}
        return found

    # -- measuring ----------------------------------------------------------------------------

    def _marks(self, total: int) -> list[int]:
        """Where the curve has its points, the last at the end."""
        return sorted({max(1, round(total * (i + 1) / self.points)) for i in range(self.points)})

    def _tokens(self, steps: int) -> int:
        """Of all members."""
        return len(self.tasks) * self.plan.inner.tokens_in(steps)

    def _point(self, steps: int) -> None:
        """Score the model in memory on everybody's text, as it is after so many steps."""
        self.outcome.scores = {name: self._score(name) for name in self.tasks}
        mean = fmean(self.outcome.scores.values())
        self.outcome.curve.append((self._tokens(steps), self.outcome.traffic.total, mean))

    def _score(self, member: str) -> float:
        score = self.tasks[member].evaluate(self.loaded.module, self.island)
        if not score.finite:
            raise Diverged(f"no finite score on the text of {member}")
        return score.bits_per_byte
