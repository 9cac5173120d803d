"""Trials of one study: shared bases, what members make of them on text they kept back, and training alone.

Everybody takes T steps on its own machine. In the federation S of them go into the shared base, on the
contributed part of the member's text, and T − S into private continued pre-training on the rest, which
never went to the run; or, as a scenario of its own, on all of the member's text. Alone, all T go over all
of it. All end where their score on one part of the held-out
text is best (early stopping); what is reported is the score on the other part.
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
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from benchmarks.gain.sizes import CUT, Size, cut, shaped
from benchmarks.parity.methods import Setting
from benchmarks.parity.simulate import RUN, Trial, World
from benchmarks.parity.trials import Book, Record, digest
from benchmarks.report import Hardware
from tapestry.errors import Diverged
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
MIXES: Final = (0.75, 0.5)
"""Of a derivative's way from its base that it may keep, beside all of it."""
MUON: Final = {"inner": {"optimizer": "muon"}}


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
    texts: folder of each language's text.
    poor: members who have a tenth of it.
    out: folder of the book, of shared bases and of what was read.
    """

    size: Size
    name: str
    texts: Mapping[str, Path]
    poor: tuple[str, ...]
    out: Path
    sharing: int = 1
    """Members of each language, named fr-1, fr-2 and so on."""
    until: float = float("inf")
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.book = Book(self.out)
        self.corpora: dict[str, dict[str, Corpus]] = {}
        words = Tokenizer.byte_level()
        names = [str(number + 1) for number in range(self.sharing)] if self.sharing > 1 else [""]
        sources = {
            f"{language}-{name}" if name else language: (source, number)
            for language, source in sorted(self.texts.items())
            for number, name in enumerate(names)
        }
        for member, (source, number) in sources.items():
            most = self.size.text_bytes // (CUT if member in self.poor else 1)
            name = f"{member}-{most}-{self.size.every}"
            folder = self.out / "text" / f"{name}-{self.sharing}"
            folders = cut(source, folder, most, self.size.every, number=number, of=self.sharing)
            self.corpora[member] = {
                part: open_corpus(folder, words, self.out / "cache") for part, folder in folders.items()
            }

    @cached_property
    def setup(self) -> str:
        """Stands for text and size."""
        read = {m: {part: c.digest for part, c in found.items()} for m, found in self.corpora.items()}
        size = {k: v for k, v in asdict(self.size).items() if k != "axes"}
        return digest({"size": size, "corpora": read})

    # -- trials ---------------------------------------------------------------------------------

    def base(self, seed: int) -> Record | None:
        """A shared base of all members, kept as a file."""
        knobs = {"rate": self.size.base_rate}
        return self._once("base", "", knobs, seed, lambda: self._base(seed))

    def trial(self, method: str, member: str, seed: int, knobs: dict[str, Any]) -> Record | None:
        """`sovereign`: a member's derivative of that base, by text that it kept back; `whole`: by that and
        what it contributed; `alone`: the member without the others, by all of it."""
        most = self.size.steps if method == "alone" else self.size.private_steps
        part = "private" if method == "sovereign" else "all"

        def run() -> Record:
            start = load_file(self._file(seed)) if method != "alone" else None
            steps, shape = max(1, round(most * knobs["length"])), knobs.get("shape", "same")
            return self._train(member, part, steps, knobs["rate"], seed, shape, start)

        return self._once(method, member, knobs, seed, run)

    def tuned(self, method: str, member: str) -> dict[str, Any] | None:
        """The knobs with the best score on the text that chooses, seed 0: one axis after the other."""
        axes = self.size.axes[method]
        knobs = {name: options[0] for name, options in axes.items()}
        for name, options in axes.items():
            scores = {}
            for option in options:
                if (found := self.trial(method, member, 0, {**knobs, name: option})) is None:
                    return None
                scores[option] = float("inf") if found["diverged"] else found["selection"][member]
            knobs[name] = min(scores, key=lambda option: scores[option])
        return knobs

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

    def _file(self, seed: int) -> Path:
        return self.out / f"base-{self.setup}-{seed}.safetensors"

    def _base(self, seed: int) -> Record:
        size = self.size
        scratch = Path(tempfile.mkdtemp(dir=self.out, prefix="scratch-"))
        try:
            store = BlobStore.open(scratch / "blobs")
            members = {name: found["contributed"] for name, found in self.corpora.items()}
            world = World(setting=self._setting(), corpora=members, scratch=scratch)
            paces = dict.fromkeys(sorted(set(self.poor) & set(members)), size.poor_pace)
            inner = {**MUON["inner"], "rows": size.rows, "paces": paces}
            tables = {"inner": inner, "merge": size.merge}
            plan = self._plan(store, seed, size.base_rate, size.model, size.shared_steps, tables)
            trial = _Kept(world, store, plan)
            trial.rounds()
            module = trial.loaded
            module.module.load_state_dict(trial.best)
            save_file({n: p.detach().clone() for n, p in module.parameters.items()}, self._file(seed))
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
            plan = self._plan(store, seed, rate, model, steps, MUON, rounds=1)
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
        mixes = {1.0: best[0]}
        for mix in MIXES if start is not None else ():
            _mix(loaded, best[2], start, mix)
            mixes[mix] = self._score(loaded, member, part)
        mix = min(mixes, key=lambda each: mixes[each])
        _mix(loaded, best[2], start, mix)
        return {
            "bits_per_byte": {member: self._score(loaded, member, "test")},
            "selection": {member: mixes[mix]},
            "stopped": best[1],
            "mix": mix,
            "curve": curve,
            "parameters": plan.parameters,
        }

    def _score(self, loaded: Loaded, member: str, part: str) -> float:
        found = bits_per_byte(
            loaded.module,
            self.corpora[member][part].valid,
            sequence_length=self.size.sequence_length,
            max_tokens=self.size.test if part == "test" else self.size.selection,
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


def _mix(
    loaded: Loaded, end: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor] | None, part: float
) -> None:
    """Fill a model with what lies a part of the way from `start` to `end`."""
    loaded.module.load_state_dict(end)
    if start is not None and part < 1:
        with torch.no_grad():
            for name, parameter in loaded.parameters.items():
                parameter.lerp_(start[name], 1 - part)
