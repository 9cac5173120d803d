"""Trainings whose bases and updates are attacked, each kept as JSON when it is done."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.leakage_text import (
    ALONE,
    CANARIES,
    FORM,
    KEEP,
    LANGUAGE,
    LEARNING_RATE,
    MARKER,
    MEMBERS,
    OVERFIT_RATE,
    SEQUENCES,
    WINDOW,
    Size,
    World,
    deal,
)
from benchmarks.machine import say
from benchmarks.parity import simulate, text
from benchmarks.parity.methods import METHODS, Knobs, Method
from tapestry.node.canaries import WORD_ALPHABET, Canaries
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.encoding import TopK
from tapestry.replay.engine import Engine
from tapestry.storage.blobs import BlobStore
from tapestry.training.corpus import Corpus
from tapestry.training.leakage import figures
from tapestry.training.leakage import measure as attacks
from tapestry.training.leakage.figures import Scores
from tapestry.training.leakage.windows import Numbers, Span, sample, trained, without
from tapestry.training.model import complete_config, fresh
from tapestry.training.model import trained as trained_parameters
from tapestry.training.tokenizer import Tokenizer


class Watched(simulate.Trial):
    """Attacks the updates of some rounds as they are merged."""

    world: World
    reference: torch.nn.Module
    looks: set[int]

    def begin(self, world: World, reference: torch.nn.Module, rounds: int, *, control: bool) -> None:
        """`control`: whether updates are tried on windows of other members as well."""
        self.control = control
        self.beside: list[dict[str, tuple[Scores, Scores]]] = []
        self.world, self.reference = world, reference
        total = self.plan.rounds.total
        self.looks = {round((i + 0.5) * total / rounds) for i in range(min(rounds, total))}
        self.found: list[dict[str, tuple[Scores, Scores]]] = []

    def _merge(self, engine: Engine, deltas: Mapping[str, Artifact]) -> None:
        if self.state.merges in self.looks:
            self._look(deltas)
        super()._merge(engine, deltas)

    def _look(self, deltas: Mapping[str, Artifact]) -> None:
        merges, inner, size = self.state.merges, self.plan.inner, self.world.size
        first = inner.steps_before(merges) * inner.batch_sequences
        span = Span(first, first + self._length() * inner.batch_sequences)
        nobody = self.world.nobody
        others = sample(np.arange(FORM.count(nobody.train.tokens)), size.beside, merges)
        names = [list(deltas)[(merges + i) % len(deltas)] for i in range(size.senders)]
        corpora = {name: self.tasks[name].corpus for name in names}
        own = {name: trained(self.tasks[name].order, [span], FORM)[0] for name in names}
        own = {name: sample(_plain_windows(corpora[name], own[name]), 150, merges) for name in names}
        base = self.loaded.load_base(self.store, self.state.base)
        module = self.loaded.module
        outside = _losses(module, nobody, others)
        before = {name: (_losses(module, corpora[name], own[name]), outside) for name in names}
        for name in names:
            attacks.take_local(self.loaded, self.store, base, deltas[name], self.plan.codec)
            local = _losses(module, corpora[name], own[name]), _losses(module, nobody, others)
            model = (
                self.world.losses("reference", self.reference, corpora[name], own[name]),
                self.world.losses("reference", self.reference, nobody, others),
            )
            self.found.append({"before": before[name], "local": local, "reference": model})
            if self.control:
                other = names[names.index(name) - 1]
                beside = _losses(module, corpora[other], own[other]), local[1]
                self.beside.append({"before": before[other], "local": beside})


def _losses(module: torch.nn.Module, corpus: Corpus, windows: Numbers) -> Scores:
    return attacks.losses(module, FORM.rows(corpus.train.tokens, windows))


def _plain_windows(corpus: Corpus, windows: Numbers) -> Numbers:
    """Those without a part of a canary, which no text of others has."""
    return without(FORM.rows(corpus.train.tokens, windows), windows, Tokenizer.byte_level(), MARKER)


def _middle(size: Size) -> int:
    """The H at which a thing is measured that is not measured at each."""
    return list(size.rounds)[len(size.rounds) // 2]


def _rules(codec: str) -> Method:
    if codec == "dense":
        return METHODS["diloco"]
    method = METHODS["sparseloco"]
    few = TopK(keep=KEEP).model_dump()
    codecs = {**method.tables["codec"], "matrices": few, "embeddings": few}
    return replace(method, tables={**method.tables, "codec": codecs})


def _trial(world: World, times: int, steps: int, codec: str, reference: torch.nn.Module) -> dict[str, Any]:
    size, together = world.size, SEQUENCES * len(MEMBERS)
    folder = world.folder / f"trial-{times}-{steps}-{codec}"
    common = simulate.World(
        setting=world.setting(together), corpora=world.corpora[times], scratch=world.folder
    )
    tokens = size.windows * len(MEMBERS) * WINDOW
    sized = replace(common.setting, tokens_per_parameter=tokens / common.parameters)
    common = replace(common, setting=sized)
    store = BlobStore.open(folder)
    knobs = Knobs(
        learning_rate=LEARNING_RATE,
        sequences=together,
        steps=steps,
        outer_rate=0.7 if codec == "dense" else 1.0,
    )
    trial = Watched(common, store, common.plan(store, _rules(codec), knobs, seed=0))
    control = (times, steps, codec) == (1, _middle(size), "dense")
    trial.begin(world, reference, size.rounds[steps], control=control)
    trial.rounds()
    trial.loaded.load_base(store, trial.state.base)
    base, module = _attack_base(world, trial, times), trial.loaded.module
    found = {
        "times": times,
        "steps": steps,
        "codec": codec,
        "rounds": trial.outcome.rounds,
        "parameters": common.parameters,
        "bits_per_byte": float(np.mean(list(trial.outcome.scores.values()))),
        "base": base,
        "updates": len(trial.found),
        "update": _pooled(trial.found, "before"),
        "update_reference": _pooled(trial.found, "reference"),
        "other_update": _pooled(trial.beside, "before") if control else None,
        "canaries": _canaries(module, planted=True, candidates=size.candidates),
        "not_planted": _canaries(module, planted=False, candidates=size.candidates),
    }
    return found


def _attack_base(world: World, trial: Watched, times: int) -> dict[str, Any]:
    part = world.size.others // len(MEMBERS)
    own = []
    for corpus in world.corpora[times].values():
        clean = _plain_windows(corpus, np.arange(FORM.count(corpus.train.tokens)))
        own.append((corpus, sample(clean, part, 0)))
    others = sample(np.arange(FORM.count(world.nobody.train.tokens)), world.size.others, 0)
    base = (
        np.concatenate([_losses(trial.loaded.module, corpus, each) for corpus, each in own]),
        _losses(trial.loaded.module, world.nobody, others),
    )
    fixed = {"reference": trial.reference, "untrained": fresh(trial.loaded.config, 99)}
    models = {
        name: (
            np.concatenate([world.losses(name, module, corpus, each) for corpus, each in own]),
            world.losses(name, module, world.nobody, others),
        )
        for name, module in fixed.items()
    }
    both, control = (base, models["reference"]), models["untrained"]
    return {
        "attack": asdict(attacks.infer(both[0], both[1], bytes=WINDOW)),
        "alone": asdict(attacks.infer(both[0], tuple(map(np.zeros_like, both[0])), bytes=WINDOW)),
        "untrained": asdict(attacks.infer(control, both[1], bytes=WINDOW)),
    }


def _pooled(found: list[dict[str, tuple[Scores, Scores]]], reference: str) -> dict[str, Any]:
    """All updates of a trial together, each in units of its own non-members' spread."""
    members, others = [], []
    for one in found:
        inside, outside = (before - after for before, after in zip(one[reference], one["local"], strict=True))
        members.append(figures.standardized(inside, outside))
        others.append(figures.standardized(outside, outside))
    a, b = np.concatenate(members), np.concatenate(others)
    return {
        "members": len(a),
        "non_members": len(b),
        "true_positives": asdict(figures.true_positive_rate(a, b)),
        "area": asdict(figures.area(a, b)),
    }


def _canaries(module: torch.nn.Module, *, planted: bool, candidates: int) -> dict[str, Any]:
    count = len(MEMBERS) * CANARIES
    said = Canaries(marker=MARKER, planted=2 * count)
    chosen = [
        attacks.Canary(*said.parts(i)) for i in range(0 if planted else count, count * (1 if planted else 2))
    ]
    bits = attacks.exposure(module, Tokenizer.byte_level(), chosen, WORD_ALPHABET, candidates, seed=1)
    return {
        "mean": asdict(figures.mean(bits)),
        "highest": float(bits.max()),
        "most": float(np.log2(candidates + 1)),
        "chance": figures.exposure_by_chance(candidates),
        "count": count,
    }


# -- reference and control --------------------------------------------------------------------------------


def _train(
    world: World, corpus: Corpus, sequences: int, times: int, rate: float = LEARNING_RATE
) -> torch.nn.Module:
    """A model of its own on the first sequences of a text, as often."""
    of = simulate.World(setting=world.setting(ALONE), corpora={"one": corpus}, scratch=world.folder)
    tokens = sequences * times * WINDOW
    of = replace(of, setting=replace(of.setting, tokens_per_parameter=tokens / of.parameters))
    store = BlobStore.open(world.folder / f"alone-{sequences}-{times}")
    knobs = Knobs(learning_rate=rate, sequences=ALONE)
    trial = simulate.Trial(of, store, of.plan(store, METHODS["synchronous"], knobs, seed=7))
    trial.tasks["one"].order.count = min(sequences, trial.tasks["one"].order.count)
    trial._train(trial._optimizer(), list(trial.tasks.values()), 0, trial.plan.total_steps)
    return trial.loaded.module


def _reference(world: World) -> torch.nn.Module:
    """The attacker's model, trained once for all trials."""
    path = _kept(world.identity, "reference").with_suffix(".safetensors")
    if not path.exists():
        say("reference")
        model = _train(world, world.attacker, world.size.others, 2)
        save_file({name: value.detach() for name, value in trained_parameters(model).items()}, path)
        return model
    model = fresh(complete_config(world.size.model, Tokenizer.byte_level()), 0)
    kept = load_file(path)
    with torch.no_grad():
        for name, value in trained_parameters(model).items():
            value.copy_(kept[name])
    return model


def _control(world: World, reference: torch.nn.Module) -> dict[str, Any]:
    """A model trained on few windows many times must be found."""
    size, corpus = world.size, world.corpora[1]["m0"]
    model = _train(world, corpus, size.overfit, size.overfit_times, OVERFIT_RATE)
    few = _plain_windows(corpus, np.arange(size.overfit))
    others = np.arange(min(size.others, FORM.count(world.nobody.train.tokens)))
    both = [(_losses(each, corpus, few), _losses(each, world.nobody, others)) for each in (model, reference)]
    return asdict(attacks.infer(both[0], both[1], bytes=WINDOW))


def _kept(identity: str, name: str) -> Path:
    place = Path(tempfile.gettempdir()) / "tapestry-leakage" / identity
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{name}.json"


def gather(corpora: Path | None, size: Size, folder: Path) -> dict[str, Any]:
    """Every trial, each from where it is kept if it was done before."""
    if corpora is not None:
        named = [path for path in sorted(corpora.iterdir()) if path.is_dir()]
        source = corpora / LANGUAGE if (corpora / LANGUAGE).is_dir() else named[0]
    else:
        source = text.make_up(folder / "made", "greek,latin", 2, documents=1500)["latin"]
    world = deal(source, folder, size)
    reference: list[torch.nn.Module] = []

    def refer() -> torch.nn.Module:
        if not reference:
            reference.append(_reference(world))
        return reference[0]

    found: dict[str, Any] = {"trials": []}
    plans = [(t, h, "dense") for t in (1, size.times) for h in size.rounds]
    plans += [(t, _middle(size), "sparse") for t in (1, size.times)]
    for times, steps, codec in plans:
        path = _kept(world.identity, f"{times}-{steps}-{codec}")
        if not path.exists():
            say(f"text {times} times, H {steps}, {codec}")
            path.write_text(json.dumps(_trial(world, times, steps, codec, refer())))
        found["trials"].append(json.loads(path.read_text()))
    path = _kept(world.identity, "control")
    if not path.exists():
        path.write_text(json.dumps(_control(world, refer())))
    found["control"] = json.loads(path.read_text())
    return found
