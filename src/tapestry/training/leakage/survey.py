"""A report's rows: bases and updates of one run, attacked with the text of the node that measures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
from torch import nn

from tapestry.errors import InputError
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.leakage import Exposure, Inference, Interval, Rate
from tapestry.protocol.plan import Plan
from tapestry.training.batches import Order
from tapestry.training.blobs import BlobSource
from tapestry.training.corpus import Corpus, Tokens
from tapestry.training.leakage import figures, measure
from tapestry.training.leakage.figures import Figure, Scores
from tapestry.training.leakage.measure import Canary, Told
from tapestry.training.leakage.reference import Reference
from tapestry.training.leakage.windows import Form, Numbers, Span, sample, trained, without
from tapestry.training.loaded import Loaded

ENOUGH_UNSEEN: Final = 500
"""Windows of train text still to come that are taken rather than valid text, though that may have more."""

Losses = tuple[Scores, Scores]
"""Of members and of non-members."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a survey is to measure.

    Args:
        windows: of each kind at most.
        window_bytes: of text in a window, about.
        candidates: beside each canary.
        seed: of what is drawn.
    """

    windows: int = 1000
    window_bytes: int = 512
    candidates: int = 255
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a node sent in a round."""

    node: str
    delta: str
    steps: int
    fragment: int


@dataclass(frozen=True)
class Sample:
    """Windows that were trained on, and others, as rows."""

    members: Numbers
    non_members: Numbers
    others: Literal["valid", "train"]


class Survey:
    """Of one model and one text.

    Args:
        loaded: the model's memory; what is in it changes with every call.
        corpus: text of the node.
        plan: by which the text was cut and ordered.
        node: whose text it is.
        asked: how much.
        marker: that canaries of this text begin with; windows with a part of it are left out.
        reference: a model to compare with, beside the states of the run.
        told: hears of windows and canaries as they are done.
    """

    def __init__(
        self,
        loaded: Loaded,
        corpus: Corpus,
        plan: Plan,
        node: str,
        asked: Asked,
        *,
        marker: str | None = None,
        reference: Reference | None = None,
        told: Told = measure.nobody,
    ) -> None:
        corpus.require(plan.inner.sequence_length)
        self.loaded, self.corpus, self.node, self.asked = loaded, corpus, node, asked
        inner = plan.inner
        self.form = Form.of(corpus.valid, inner.sequence_length, asked.window_bytes)
        self._order = Order(corpus.train.tokens, inner.sequence_length, seed=inner.seed, node=node)
        self._marker = marker
        self._reference = reference
        self._told = told

    def windows(self, spans: Sequence[Span], before: Sequence[Span], *, unseen: bool) -> Sample:
        """Windows trained on in `spans`, and some that were not in any round `before` or in these.

        Args:
            unseen: whether it is known for certain which text is still to come.

        Raises:
            InputError: too few of one kind.
        """
        form, tokens, valid = self.form, self.corpus.train.tokens, self.corpus.valid.tokens
        members = self._sampled(trained(self._order, spans, form)[0], tokens)
        left = trained(self._order, [*before, *spans], form)[1] if unseen else np.empty(0, np.int64)
        held_out = np.arange(form.count(valid))
        least = figures.least_non_members()
        kind: Literal["valid", "train"] = "valid"
        if len(left) >= min(ENOUGH_UNSEEN, self.asked.windows) or len(left) >= max(least, len(held_out)):
            kind = "train"
        text = tokens if kind == "train" else valid
        others = self._sampled(left if kind == "train" else held_out, text)
        if len(members) < figures.MIN_MEMBERS or len(others) < least:
            raise InputError(
                f"{len(members)} windows of {form.bytes:.0f} bytes were trained on and {len(others)} were "
                f"not; {figures.MIN_MEMBERS} and {least} are needed",
                hint="set more documents apart as valid text before a run, choose rounds of more steps, or "
                "shorter windows: --window-bytes",
            )
        return Sample(form.rows(tokens, members), form.rows(text, others), kind)

    def _sampled(self, windows: Numbers, tokens: Tokens) -> Numbers:
        chosen = sample(windows, self.asked.windows, self.asked.seed)
        if self._marker is None:
            return chosen
        return without(self.form.rows(tokens, chosen), chosen, self.loaded.tokenizer, self._marker)

    def _losses(self, of: Sample, module: nn.Module | None = None) -> Losses:
        module, parts = module or self.loaded.module, self.form.parts
        members = measure.losses(module, of.members, parts, told=self._told)
        return members, measure.losses(module, of.non_members, parts, told=self._told)

    def base(
        self, source: BlobSource, target: State, reference: State, of: Sample, *, round: int
    ) -> Iterator[Inference]:
        """A base against an earlier one, such as the initial state, and against the reference model."""
        self.loaded.load_base(source, reference.base)
        before = self._losses(of)
        self.loaded.load_base(source, target.base)
        row = {"subject": "base", "round": round, "node": None, "target": target.digest, "steps": 0}
        yield from self._rows(self._losses(of), before, reference.digest, of, row)

    def updates(
        self,
        source: BlobSource,
        before: State,
        plan: Plan,
        updates: Sequence[Update],
        of: Sample,
        *,
        round: int,
    ) -> Iterator[Inference]:
        """Updates that start from one base, each against that, and as models against the reference model."""
        base = self.loaded.load_base(source, before.base)
        reference = self._losses(of)
        for update in updates:
            self.take(source, base, plan, update)
            subject = "own-update" if update.node == self.node else "other-update"
            row = {"subject": subject, "round": round, "node": update.node, "target": update.delta}
            row["steps"] = update.steps
            yield from self._rows(self._losses(of), reference, before.digest, of, row)

    def _rows(
        self, target: Losses, before: Losses, state: str, of: Sample, row: dict[str, object]
    ) -> Iterator[Inference]:
        yield self._row(target, before, of, {**row, "by": "state", "reference": state})
        if self._reference is not None:
            model = self._losses(of, self._reference.module)
            yield self._row(target, model, of, {**row, "by": "model", "reference": self._reference.digest})

    def _row(self, target: Losses, before: Losses, of: Sample, row: dict[str, object]) -> Inference:
        found = measure.infer(target, before, bytes=self.form.bytes)
        values = {
            **row,
            "others": of.others,
            "members": found.members,
            "non_members": found.non_members,
            "true_positives": Rate(**_rounded(found.true_positives)),
            "area": Rate(**_rounded(found.area)),
            "blind": Rate(**_rounded(found.blind)),
            "gain_members": _digits(found.gain_members),
            "gain_non_members": _digits(found.gain_non_members),
        }
        return Inference.model_validate(values)

    def take(self, source: BlobSource, base: Artifact, plan: Plan, update: Update) -> None:
        """Set the model to a member's own, as its update shows it. Raises as `measure.take_local`."""
        delta = Artifact.from_bytes(source.read(update.delta, Artifact.MAX_BYTES))
        measure.take_local(self.loaded, source, base, delta, plan.codec, update.fragment)

    def exposure(
        self,
        canaries: Sequence[Canary],
        alphabet: str,
        *,
        subject: Literal["base", "own-update"],
        round: int,
        target: str,
    ) -> Exposure:
        """Of canaries in the model as it is now."""
        bits = measure.exposure(
            self.loaded.module,
            self.loaded.tokenizer,
            canaries,
            alphabet,
            self.asked.candidates,
            seed=self.asked.seed,
            told=self._told,
        )
        most = math.log2(self.asked.candidates + 1)
        return Exposure(
            subject=subject,
            round=round,
            target=target,
            canaries=len(canaries),
            candidates=self.asked.candidates,
            bits=Interval(**_rounded(figures.mean(bits, 0.0, most))),
            highest=_digits(float(bits.max())),
            by_chance=_digits(figures.exposure_by_chance(self.asked.candidates)),
        )


def _rounded(figure: Figure) -> dict[str, float]:
    return {name: _digits(value) for name, value in asdict(figure).items()}


def _digits(value: float) -> float:
    """Six digits: more would say nothing, and leave room for words."""
    return float(f"{value:.6g}")
