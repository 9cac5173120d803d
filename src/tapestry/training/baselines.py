"""What a shared base is compared with: byte bigrams, each member training alone, and all text pooled.

`python -m tapestry.training.baselines REQUEST.json` prints the figures as JSON; the request is a
`Request`. Alone and pooled train the run's own model from its initial state for as many steps as one node
of the run does. Pooled is synchronous data parallelism: one batch from each member in every step, so N
times the batch. Their learning rate is tuned: for each of `RATES` times the plan's rate a run of
`TUNING_SHARE` of the steps, with its schedule shortened, and then full runs at the rate whose training
loss (on text it had not seen) was lowest over the last quarter, and at the next lower one, since a short run
flatters a high rate. The better of the two by the same loss is what counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError

from tapestry.errors import FormatError, TapestryError
from tapestry.protocol.artifact import State
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Part, explain
from tapestry.protocol.plan import Plan
from tapestry.training.bigrams import Bigrams
from tapestry.training.blobs import BlobFolder, BlobSource
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.loaded import Loaded
from tapestry.training.machine import configure
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.task import CausalLM
from tapestry.training.tokenizer import Tokenizer

RATES = (0.25, 0.5, 1.0, 2.0)
TUNING_SHARE = 0.1
MIN_TUNING_STEPS = 10

What = Literal["bigrams", "alone", "pooled"]


class Request(Part):
    """What to measure.

    `members` maps a member's name to its corpus folder, `blobs` is a blob folder that holds the plan, the
    model and the initial state, `cache` a folder for tokenized text.
    """

    plan: Sha256
    blobs: str
    members: dict[Name, str]
    cache: str
    threads: Annotated[int, Field(ge=1)] = 1
    what: tuple[What, ...] = ("bigrams", "alone", "pooled")
    more_steps: Annotated[int, Field(ge=0)] = 0
    """Of training alone and pooled, beyond those of the run: what somebody else trained after it."""


class Baselines:
    """The baselines of one run.

    Args:
        plan: of the run.
        source: blob folder with its model and initial state.
        corpora: each member's text, tokenized by the run's tokenizer.
        more_steps: beyond those of the run.
    """

    def __init__(
        self, plan: Plan, source: BlobSource, corpora: Mapping[str, Corpus], more_steps: int = 0
    ) -> None:
        self.plan = plan
        self.source = source
        self.loaded = Loaded.read(source, plan.model)
        self.initial = State.from_bytes(source.read(plan.initial_state, State.MAX_BYTES))
        self.tasks = {name: CausalLM(plan, corpus, name) for name, corpus in corpora.items()}
        self.steps = plan.total_steps + more_steps

    def alone(self, member: str) -> dict[str, Any]:
        """The run's model trained on one member's text."""
        return self._tuned([self.tasks[member]])

    def pooled(self) -> dict[str, Any]:
        """The run's model trained on everybody's text at once."""
        return self._tuned(list(self.tasks.values()))

    def _tuned(self, tasks: Sequence[CausalLM]) -> dict[str, Any]:
        short = min(self.steps, max(MIN_TUNING_STEPS, round(self.steps * TUNING_SHARE)))
        trials = {}
        for factor in RATES:
            rate = factor * self.plan.inner.learning_rate
            trials[rate] = self.train(tasks, rate, short)
        rates = sorted(trials)
        first = rates.index(min(trials, key=lambda rate: trials[rate]))
        started = time.monotonic()
        full = {}
        for rate in rates[max(0, first - 1) : first + 1]:
            loss = self.train(tasks, rate, self.steps)
            scores = {name: task.evaluate(self.loaded.module) for name, task in self.tasks.items()}
            full[rate] = loss, {name: score.bits_per_byte for name, score in scores.items()}
        train_s = time.monotonic() - started
        best = min(full, key=lambda rate: full[rate][0])
        return {
            "bits_per_byte": full[best][1],
            "learning_rate": best,
            "tried": {str(rate): _finite(loss) for rate, loss in trials.items()},
            "full": {str(rate): _finite(loss) for rate, (loss, _) in full.items()},
            "steps": self.steps,
            "tuning_steps": short,
            "train_s": train_s,
        }

    def train(self, tasks: Sequence[CausalLM], rate: float, steps: int) -> float:
        """Train from the initial state; returns the mean loss of the last quarter, inf if it diverged."""
        warmup = min(self.plan.inner.warmup_steps, max(1, steps // 5))
        inner = self.plan.inner.model_copy(update={"learning_rate": rate, "warmup_steps": warmup})
        self.loaded.load_base(self.source, self.initial.base)
        self.loaded.module.train()
        optimizer = InnerOptimizer(self.loaded.parameters, inner, self.plan.codec.is_embedding)
        size = inner.batch_sequences
        losses = []
        for step in range(steps):
            total = 0.0
            for part in range(inner.accumulation):
                position = (step * inner.accumulation + part) * size
                batch = torch.cat([task.batch(position) for task in tasks])
                loss = tasks[0].loss(self.loaded.module, batch) / inner.accumulation
                torch.autograd.backward(loss)
                total += loss.item()
            if not math.isfinite(total):
                return math.inf
            optimizer.step(learning_rate(inner, step, steps))
            losses.append(total)
        last = losses[-max(1, steps // 4) :]
        return math.fsum(last) / len(last)


def _finite(loss: float) -> float | None:
    """As JSON has it."""
    return loss if math.isfinite(loss) else None


def measure(request: Request) -> dict[str, Any]:
    """Everything a request asks for, ready for JSON: bits per byte by baseline and member."""
    cache, source = Path(request.cache), BlobFolder(Path(request.blobs))
    plan = Plan.from_bytes(source.read(request.plan, Plan.MAX_BYTES))
    found: dict[str, Any] = {"format": "tapestry.baselines", "version": 1, "plan": request.plan}
    folders = {name: Path(folder) for name, folder in request.members.items()}
    if "bigrams" in request.what:
        found["bigrams"] = {}
        for name, folder in folders.items():
            corpus = open_corpus(folder, Tokenizer.byte_level(), cache)
            model = Bigrams.fit(corpus)
            score = model.score(corpus.valid, max_tokens=plan.evaluation.max_tokens)
            found["bigrams"][name] = {"bits_per_byte": score.bits_per_byte, "added": model.added}
    if {"alone", "pooled"} & set(request.what):
        tokenizer = Loaded.read(source, plan.model).tokenizer
        corpora = {name: open_corpus(folder, tokenizer, cache) for name, folder in folders.items()}
        runs = Baselines(plan, source, corpora, request.more_steps)
        if "alone" in request.what:
            found["alone"] = {name: runs.alone(name) for name in folders}
        if "pooled" in request.what:
            found["pooled"] = runs.pooled()
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the figures as JSON on standard output; a typed error as JSON on the last line of stderr."""
    parser = argparse.ArgumentParser(prog="tapestry.training.baselines", description=__doc__)
    parser.add_argument("request", type=Path, help="a JSON file, see Request")
    path = parser.parse_args(argv).request
    try:
        try:
            request = Request.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as e:
            said = explain(e) if isinstance(e, ValidationError) else str(e)
            raise FormatError(f"{path}: {said}") from e
        configure(request.threads)
        figures = measure(request)
    except TapestryError as e:
        described = {"code": e.code, "message": e.message, "hint": e.hint}
        sys.stderr.write(json.dumps({"error": described}) + "\n")
        return e.exit_code
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
