"""Trials of one study: shared bases, what members make of them on text they kept back, and training alone.

Everybody takes T steps on its own machine. In the federation S of them go into the shared base, on the
contributed part of the member's text (every second document), and T − S into private continued pre-training
on the rest, which never went to the run. Alone, all T go over all of it. All end where their score on one
part of the held-out text is best (early stopping); what is reported is the score on the other part.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from benchmarks.parity.methods import Setting, llama
from benchmarks.parity.simulate import RUN, Trial, World
from benchmarks.parity.trials import Book, Record, digest
from benchmarks.report import Hardware
from tapestry.errors import Diverged
from tapestry.protocol.algorithms import ALGORITHMS
from tapestry.protocol.artifact import State
from tapestry.protocol.encoding import Codec
from tapestry.protocol.plan import Evaluation, Inner, Merge, Plan, Rounds
from tapestry.storage.blobs import BlobStore
from tapestry.training.corpus import Corpus, open_corpus
from tapestry.training.evaluation import bits_per_byte
from tapestry.training.loaded import Loaded
from tapestry.training.model import initial_state
from tapestry.training.optim import InnerOptimizer, learning_rate
from tapestry.training.task import CausalLM
from tapestry.training.tokenizer import Tokenizer

PATIENCE: Final = 4
"""Points in a row without a better score, after which a training ends."""
EVERY: Final = 2
"""One document of so many is contributed."""
EVALUATE: Final = 1 << 15
"""Tokens of each part of the held-out text."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a study is."""

    model: dict[str, Any]
    sequence_length: int
    sequences: int
    """Of one step of one member."""
    shared_steps: int
    private_steps: int
    round_steps: int
    points: int
    """At which a model is scored, for early stopping."""
    text_bytes: int
    """That a member has to train on; those cut to a tenth have a tenth of it."""

    @property
    def steps(self) -> int:
        """That everybody takes on its own machine."""
        return self.shared_steps + self.private_steps


SIZES: Final = {
    "tiny": Size(
        model=llama(32, 1, 2, 32),
        sequence_length=32,
        sequences=4,
        shared_steps=20,
        private_steps=10,
        round_steps=10,
        points=3,
        text_bytes=20_000,
    ),
    "small": Size(
        model=llama(128, 3, 4, 128),
        sequence_length=128,
        sequences=4,
        shared_steps=600,
        private_steps=600,
        round_steps=20,
        points=12,
        text_bytes=260_000,
    ),
}
SHAPES: Final = {"half": 0.5, "same": 1.0, "twice": 2.0}
"""Widths that training alone may choose from, as parts of the shared base's."""


def shaped(model: Mapping[str, Any], shape: str) -> dict[str, Any]:
    """The model's configuration at another width; heads stay as wide as they are."""
    heads = max(1, round(model["num_attention_heads"] * SHAPES[shape]))
    wide = model["hidden_size"] // model["num_attention_heads"] * heads
    return llama(wide, model["num_hidden_layers"], heads, model["max_position_embeddings"])


def cut(source: Path, out: Path, most_bytes: int) -> dict[str, Path]:
    """Folders of one member's text by what it is for: documents take turns, so none is in two parts.

    Args:
        source: with `train.jsonl` and `valid.jsonl`.
        out: folder to make.
        most_bytes: of the documents to train on that the member has at all.
    """
    train = (source / "train.jsonl").read_text(encoding="utf-8").splitlines()
    valid = (source / "valid.jsonl").read_text(encoding="utf-8").splitlines()
    sizes = accumulate(len(line.encode()) for line in train)
    train = train[: max(2 * EVERY, sum(size <= most_bytes for size in sizes))]
    parts = {
        "contributed": (train[::EVERY], valid[::2]),
        "private": ([line for n, line in enumerate(train) if n % EVERY], valid[::2]),
        "all": (train, valid[::2]),
        "test": (train[:2], valid[1::2]),
    }
    for name, (first, second) in parts.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "train.jsonl").write_text("\n".join(first) + "\n", encoding="utf-8")
        (out / name / "valid.jsonl").write_text("\n".join(second) + "\n", encoding="utf-8")
    return {name: out / name for name in parts}


class _Kept(Trial):
    """Remembers the base with the best mean of its members' scores: a consortium would release that one."""

    best: dict[str, Any]

    def _point(self, steps: int) -> None:
        super()._point(steps)
        means = [mean for _, _, mean in self.outcome.curve]
        if means[-1] == min(means):
            self.best = copy.deepcopy(self.loaded.module.state_dict())


@dataclass(kw_only=True)
class Study:
    """Args:
    size: how large.
    texts: folder of each member's text.
    poor: members who have a tenth of it.
    out: folder of the book, of shared bases and of what was read.
    """

    size: Size
    name: str
    texts: Mapping[str, Path]
    poor: tuple[str, ...]
    out: Path
    until: float = float("inf")
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.book = Book(self.out)
        self.corpora: dict[str, dict[str, Corpus]] = {}
        words = Tokenizer.byte_level()
        for member, source in sorted(self.texts.items()):
            most = self.size.text_bytes // (10 if member in self.poor else 1)
            folders = cut(source, self.out / "text" / f"{member}-{most}", most)
            self.corpora[member] = {
                part: open_corpus(folder, words, self.out / "cache") for part, folder in folders.items()
            }

    @cached_property
    def setup(self) -> str:
        """Stands for text and size."""
        read = {m: {part: c.digest for part, c in found.items()} for m, found in self.corpora.items()}
        return digest({"size": asdict(self.size), "corpora": read, "evaluate": EVALUATE, "every": EVERY})

    # -- trials ---------------------------------------------------------------------------------

    def base(self, seed: int, rate: float) -> Record | None:
        """A shared base of all members, kept as a file."""
        return self._once("base", "", {"rate": rate}, seed, lambda: self._base(seed, rate))

    def sovereign(self, member: str, seed: int, base_rate: float, rate: float) -> Record | None:
        """A member's derivative of that base."""
        knobs = {"base_rate": base_rate, "rate": rate}
        start = load_file(self._file(seed, base_rate))
        return self._once(
            "sovereign",
            member,
            knobs,
            seed,
            lambda: self._train(member, "private", self.size.private_steps, rate, seed, "same", start),
        )

    def alone(self, member: str, seed: int, rate: float, shape: str) -> Record | None:
        """A member without the others."""
        knobs = {"rate": rate, "shape": shape}
        return self._once(
            "alone",
            member,
            knobs,
            seed,
            lambda: self._train(member, "all", self.size.steps, rate, seed, shape, None),
        )

    def _once(
        self, method: str, member: str, knobs: dict[str, Any], seed: int, run: Callable[[], Record]
    ) -> Record | None:
        key = {
            "setting": self.name,
            "members": [member] if member else sorted(self.corpora),
            "setup": self.setup,
            "method": method,
            "rules": "",
            "knobs": knobs,
            "seed": seed,
            "share": 1.0,
        }
        if (done := self.book.find(key)) is not None:
            return done
        if time.monotonic() >= self.until:
            return None
        began = time.monotonic()
        record = key | {"diverged": None, "bits_per_byte": {}}
        try:
            record |= run()
        except Diverged as e:
            record["diverged"] = e.message
        record |= {
            "seconds": round(time.monotonic() - began, 1),
            "hardware": str(Hardware.here()),
            "threads": torch.get_num_threads(),
        }
        self.book.add(record)
        told = record["diverged"] or {k: round(v, 4) for k, v in record["bits_per_byte"].items()}
        self.say(f"{method} {member} seed {seed} {json.dumps(knobs)}: {told}, {record['seconds']} s")
        return record

    def _file(self, seed: int, rate: float) -> Path:
        return self.out / f"base-{self.setup}-{seed}-{rate:g}.safetensors"

    def _base(self, seed: int, rate: float) -> Record:
        scratch = Path(tempfile.mkdtemp(dir=self.out, prefix="scratch-"))
        try:
            store = BlobStore.open(scratch / "blobs")
            members = {name: found["contributed"] for name, found in self.corpora.items()}
            world = World(setting=self._setting(), corpora=members, scratch=scratch)
            tables = ALGORITHMS["muloco"].tables()
            plan = self._plan(store, seed, rate, self.size.model, self.size.shared_steps, tables)
            trial = _Kept(world, store, plan)
            trial.rounds()
            module = trial.loaded
            module.module.load_state_dict(trial.best)
            save_file({n: p.detach().clone() for n, p in module.parameters.items()}, self._file(seed, rate))
            scores = {name: self._score(module, name, "test") for name in members}
            selection = {name: self._score(module, name, "all") for name in members}
            return {
                "bits_per_byte": scores,
                "selection": selection,
                "parameters": plan.parameters,
                "curve": trial.outcome.curve,
            }
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _train(
        self,
        member: str,
        part: str,
        steps: int,
        rate: float,
        seed: int,
        shape: str,
        start: dict[str, torch.Tensor] | None,
    ) -> Record:
        scratch = Path(tempfile.mkdtemp(dir=self.out, prefix="scratch-"))
        try:
            store = BlobStore.open(scratch)
            model = shaped(self.size.model, shape)
            tables = {"inner": {"optimizer": "muon"}}
            plan = self._plan(store, seed, rate, model, steps, tables, rounds=1)
            loaded = Loaded.read(store, plan.model)
            loaded.load_base(store, State.from_bytes(store.read(plan.initial_state)).base)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if start is not None:
            with torch.no_grad():
                for name, parameter in loaded.parameters.items():
                    parameter.copy_(start[name])
        task = CausalLM(plan, self.corpora[member][part], member)
        optimizer = InnerOptimizer(loaded.parameters, plan.inner, plan.codec.is_embedding)
        marks = {max(1, round(steps * (i + 1) / self.size.points)) for i in range(self.size.points)}
        curve = [(0, self._score(loaded, member, part))]
        best = (curve[0][1], 0, copy.deepcopy(loaded.module.state_dict()))
        loaded.module.train()
        for step in range(steps):
            loss = task.loss(loaded.module, task.batch(step * plan.inner.batch_sequences))
            torch.autograd.backward(loss)
            if not math.isfinite(loss.item()):
                raise Diverged(f"the loss of step {step + 1} is not finite")
            optimizer.step(learning_rate(plan.inner, step, steps))
            if step + 1 in marks:
                score = self._score(loaded, member, part)
                curve.append((step + 1, score))
                if score < best[0]:
                    best = (score, step + 1, copy.deepcopy(loaded.module.state_dict()))
                elif [mark for mark, _ in curve].index(best[1]) + PATIENCE < len(curve):
                    break
        loaded.module.load_state_dict(best[2])
        return {
            "bits_per_byte": {member: self._score(loaded, member, "test")},
            "selection": {member: best[0]},
            "stopped": best[1],
            "curve": curve,
            "parameters": plan.parameters,
        }

    def _score(self, loaded: Loaded, member: str, part: str) -> float:
        found = bits_per_byte(
            loaded.module,
            self.corpora[member][part].valid,
            sequence_length=self.size.sequence_length,
            max_tokens=EVALUATE,
        )
        if not found.finite:
            raise Diverged(f"no finite score on the text of {member}")
        return found.bits_per_byte

    def _setting(self) -> Setting:
        size = self.size
        return Setting(
            name=self.name,
            model=size.model,
            sequence_length=size.sequence_length,
            tokens_per_parameter=1.0,
            rates=(),
            batches=(size.sequences * len(self.corpora),),
            rounds=(size.round_steps,),
            languages=len(self.corpora),
            evaluate_tokens=1 << 12,
            points=size.points,
        )

    def _plan(
        self,
        store: BlobStore,
        seed: int,
        rate: float,
        model: dict[str, Any],
        steps: int,
        tables: Mapping[str, Mapping[str, Any]],
        *,
        rounds: int | None = None,
    ) -> Plan:
        made, layout, state, parameters = initial_state(RUN, model, "byte", seed, 1 << 20, store)
        rounds = rounds or steps // self.size.round_steps
        members = len(self.corpora)
        inner = {
            "steps": steps // rounds,
            "sequence_length": self.size.sequence_length,
            "batch_sequences": self.size.sequences,
            "learning_rate": rate,
            "warmup_steps": max(1, steps // 20),
            "seed": seed,
            **tables.get("inner", {}),
        }
        return Plan(
            run=RUN,
            model=made.digest,
            layout=layout.digest,
            initial_state=state.digest,
            parameters=parameters,
            rounds=Rounds(total=rounds, min_nodes=members, quorum=members),
            inner=Inner(**inner),
            codec=Codec(**tables.get("codec", {})),
            merge=Merge(**tables.get("merge", {})),
            evaluation=Evaluation(max_tokens=1 << 12),
        )
