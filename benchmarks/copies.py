"""Copied updates: how much honest updates overlap, which copies are found, and what looking costs.

Members train a small model from a shared base as `benchmarks.parity` does; each update is sketched and held
against earlier ones by the rule that a core applies (`merge.largest_overlap`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import codec as codecs
from benchmarks import made
from benchmarks.machine import say, scratch
from benchmarks.parity import simulate, text
from benchmarks.parity.methods import METHODS, Knobs, Setting, _llama
from benchmarks.report import Report, Settings
from tapestry.cli.planfile import LARGEST_OVERLAP
from tapestry.codec.contract import Dense
from tapestry.codec.shards import Section, ShardCodec, add_
from tapestry.protocol.artifact import Artifact, Blob
from tapestry.protocol.encoding import PLAIN, Codec
from tapestry.protocol.layout import Layout, Shard
from tapestry.replay.engine import Engine
from tapestry.replay.job import OverlapJob, SketchAt, Sketched
from tapestry.replay.sketches import FILE_BYTES, NEARLY_ALL, Drawing, compared
from tapestry.storage.blobs import BlobStore
from tapestry.tensors.sketch import overlaps, unit
from tapestry.training.corpus import Corpus

SEED = "c0" * 32
LEARNING_RATE = 2e-3
SEQUENCES = 4
SMALL = Setting(
    name="copies",
    model=_llama(48, 2, 4, 64),
    sequence_length=64,
    tokens_per_parameter=1.0,
    rates=(),
    batches=(),
    rounds=(),
    languages=5,
    evaluate_tokens=64,
    points=1,
    shard_bytes=1 << 17,
)
UNMIXED = "streaming, mixing 0"
RUNS = {
    "one language": (("diloco", 1, 10), ("diloco", 5, 5), ("diloco", 30, 3)),
    "three languages": (
        *(("diloco", 5, 5), ("diloco", 30, 3), ("sparseloco", 5, 5), ("sparseloco", 30, 3)),
        *(("muloco", 10, 3), ("streaming", 5, 6), (UNMIXED, 5, 6)),
    ),
}
"""By text: algorithm, inner steps a round, rounds."""
WITH_COPIES = {("diloco", 5), ("diloco", 30), ("sparseloco", 30)}
MEMBERS = ("m0", "m1", "m2", "m3")
TEXT = ("made-up text", "parts of encyclopedias in German, Persian and French")
LOOKS_BACK = 4
"""Rounds of its fragment that an update is compared with here."""
NOT_SHOWN = (
    "The model has less than 0.1 million parameters and trains for a minute at most: the beginning of a "
    "training. Larger models and later rounds were not tried.",
    "Noise here is spread evenly over the values that an update has. Whoever adds as much as the update is "
    "long, or mixes updates of several rounds, is not found.",
    "Processor time of one thread, files in the page cache.",
)


@dataclass(frozen=True)
class Update:
    """What a member sent."""

    values: Tensor
    """Of all shards of its fragment, behind each other."""
    sketch: Tensor


class Watched(simulate.Trial):
    """Keeps what was sent."""

    def rounds(self) -> None:
        self.seen: list[dict[str, Update]] = []
        super().rounds()

    def _merge(self, engine: Engine, deltas: Mapping[str, Artifact]) -> None:
        shards, codec = self.loaded.layout.fragment_at(self.state.merges).shards, self.plan.codec
        found = {}
        for name, delta in deltas.items():
            parts = []
            for shard, blob in zip(shards, delta.shards, strict=True):
                values = torch.zeros(shard.elements)
                data = self.store.read(blob.sha256)
                if codec.plain:
                    values = torch.frombuffer(bytearray(data[len(shard.header) :]), dtype=torch.float32)
                else:
                    add_(ShardCodec(codec).decode(shard, data), values)
                parts.append(values)
            found[name] = self.update(torch.cat(parts), len(self.seen))
        self.seen.append(found)
        super()._merge(engine, deltas)

    def update(self, values: Tensor, merges: int) -> Update:
        """Of the round after so many merges."""
        drawing, at = Drawing(SEED), 0
        for shard in self._shards(merges):
            own = values[at : at + shard.elements]
            drawing.add(shard, [Section(slice(0, shard.elements), Dense(own), "")])
            at += shard.elements
        return Update(values, unit(drawing.sums))

    def encoded(self, values: Tensor, merges: int, codec: Codec) -> Update:
        """As a codec would have sent it."""
        if codec.plain:
            return self.update(values, merges)
        parts, at = [], 0
        for shard in self._shards(merges):
            sent = torch.zeros(shard.elements)
            encode = ShardCodec(codec)
            data = encode.encode_(shard, values[at : at + shard.elements].clone())
            add_(encode.decode(shard, data), sent)
            parts.append(sent)
            at += shard.elements
        return self.update(torch.cat(parts), merges)

    def _shards(self, merges: int) -> tuple[Shard, ...]:
        return self.loaded.layout.fragment_at(merges).shards

    def _point(self, steps: int) -> None:
        """Nobody is scored here."""


def measure(settings: Settings) -> Report:
    report = Report(what="copies", title="Copied updates", not_shown=NOT_SHOWN)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with scratch() as folder:
            _trained(report, settings, folder)
            _cost(report, settings, folder / "cost")
    finally:
        torch.set_num_threads(before)
    return report


# -- trainings --------------------------------------------------------------------------------------------


def _trained(report: Report, settings: Settings, folder: Path) -> None:
    honest: list[tuple[object, ...]] = []
    copied: list[tuple[object, ...]] = []
    errors: list[float] = []
    pairs = refused = 0
    for name, corpora in _texts(settings, folder).items():
        for method, steps, rounds in RUNS[name][: 3 if settings.quick else None]:
            trial = _run(corpora, folder, method, steps, 3 if settings.quick else rounds)
            say(f"{name}: {method}, {steps} steps a round")
            row, seen, wrong = _honest(trial, errors)
            pairs, refused = pairs + seen, refused + wrong
            honest.append((name, method, steps, len(trial.seen), *row))
            if (method, steps) in WITH_COPIES:
                copied += [(name, method, steps, *row) for row in _copies(trial)]
    report.section(
        "Honest updates",
        f"{len(MEMBERS)} members, {TEXT[settings.corpora is not None]}, learning rate {LEARNING_RATE:g}, "
        f"{SEQUENCES} sequences of {SMALL.sequence_length} bytes a step. The largest overlap found, with the "
        f"last {LOOKS_BACK} rounds: *bare*, the |cosine|; *beyond*, what is left once the other updates of "
        "that round are taken out of both. With mixing only the bare one counts: there an honest update "
        "holds a part of all that was merged before.",
    )
    report.table(
        (
            *("text", "algorithm", "H", "rounds", "another's, beyond", "another's, bare", "its own, bare"),
            *("of the same round, bare", "refused"),
        ),
        honest,
    )
    report.paragraph(
        f"Of {pairs} comparisons, {refused} would have refused an honest update, with "
        f"`largest_overlap = {LARGEST_OVERLAP}` beyond and {NEARLY_ALL} bare. With 0 refused, the rate is "
        f"below {3 / pairs:.1e} at 95 % (3/N), as far as pairs are independent. A sketch's cosine was at "
        f"most {max(errors):.3f} away from the exact one."
    )
    report.section(
        "Copies",
        "Each member hands in what another (or itself) sent in the round before, changed; overlap beyond "
        "(with its own: bare), median and smallest, and how many of them are refused.",
    )
    report.table(("text", "algorithm", "H", "what is handed in", "median", "smallest", "refused"), copied)


def _texts(settings: Settings, folder: Path) -> dict[str, dict[str, Corpus]]:
    if settings.corpora is not None:
        there = text.choose(settings.corpora, "3", 3)
    else:
        there = text.make_up(folder / "text", "3", 3)
    one, two, three = text.read(there, folder / "tokens").values()
    return {
        "one language": dict.fromkeys(MEMBERS, one),
        "three languages": dict(zip(MEMBERS, (one, one, two, three), strict=True)),
    }


def _run(corpora: dict[str, Corpus], folder: Path, method: str, steps: int, rounds: int) -> Watched:
    world = simulate.World(setting=SMALL, corpora=corpora, scratch=folder)
    rules = METHODS["streaming" if method == UNMIXED else method]
    if method == UNMIXED:
        rules = replace(rules, tables={**rules.tables, "streaming": {"fragments": 2, "overlap_steps": 2}})
    fragments = rules.tables.get("streaming", {}).get("fragments", 1)
    together = SEQUENCES * len(corpora)
    tokens = steps * rounds * together * SMALL.sequence_length / world.parameters
    sized = replace(SMALL, tokens_per_parameter=tokens, batches=(together,))
    world = simulate.World(setting=sized, corpora=corpora, scratch=folder)
    store = BlobStore.open(folder / f"run-{time.monotonic_ns()}")
    knobs = Knobs(learning_rate=LEARNING_RATE, sequences=together, steps=steps * fragments)
    trial = Watched(world, store, world.plan(store, rules, knobs, seed=0))
    trial.rounds()
    return trial


def _honest(trial: Watched, errors: list[float]) -> tuple[tuple[str, ...], int, int]:
    """The largest of each kind, and how many pairs were seen and refused; adds to `errors` of sketches."""
    beyond, bare, own, same = [0.0], [0.0], [0.0], [0.0]
    refused = pairs = 0
    for number, sent in enumerate(trial.seen):
        names = list(sent)
        for i, name in enumerate(names):
            mine = sent[name]
            for earlier in _earlier(trial, number):
                rows = torch.stack([each.sketch for each in earlier.values()])
                near, nearer = overlaps(mine.sketch, rows)
                for other, a, b in zip(earlier, near.tolist(), nearer.tolist(), strict=True):
                    (own if other == name else bare).append(a)
                    if other != name:
                        beyond.append(b)
                    errors.append(abs(a - _cosine(mine.values, earlier[other].values)))
                pairs += len(earlier)
                refused += _found(mine, name, earlier, trial.plan.streaming.mixing)
            before = [sent[each].sketch for each in names[:i]]
            if before:
                same += overlaps(mine.sketch, torch.stack(before))[0].tolist()
                pairs += len(before)
                refused += max(same[-len(before) :]) > NEARLY_ALL
    row = tuple(f"{max(each):.3f}" for each in (beyond, bare, own))
    return (*row, f"{max(same):.3f}", str(refused)), pairs, refused


def _earlier(trial: Watched, number: int) -> list[dict[str, Update]]:
    fragments = trial.plan.streaming.fragments
    return [trial.seen[each] for each in range(number - fragments, -1, -fragments)][:LOOKS_BACK]


def _found(update: Update, name: str, earlier: Mapping[str, Update], mixing: float) -> bool:
    """What the rule says."""
    every = enumerate(earlier.items())
    others = [(i, other == name and not mixing, each.sketch) for i, (other, each) in every]
    return compared(update.sketch, others, LARGEST_OVERLAP).copied


def _cosine(a: Tensor, b: Tensor) -> float:
    return abs(float(torch.dot(a.double(), b.double()) / (a.double().norm() * b.double().norm())))


# -- copies -----------------------------------------------------------------------------------------------


def _copies(trial: Watched) -> list[tuple[str, ...]]:
    """A row for each way to copy."""
    noise = torch.Generator().manual_seed(0)
    fewer = next(each for name, each in codecs.codecs().items() if name.startswith("64 of 4096 in 8"))
    rows = []
    for what, (change, codec) in _ways(noise, trial.plan.codec, fewer).items():
        found, told = [], []
        for number in range(1, len(trial.seen)):
            sent, earlier = trial.seen[number], trial.seen[number - 1]
            names = list(sent)
            for i, name in enumerate(names):
                victim = name if what.startswith("its own") else names[i - 1]
                values = change(earlier[victim].values, sent[name].values, list(earlier.values()))
                copy = trial.encoded(values, number, codec)
                rows_of = torch.stack([each.sketch for each in earlier.values()])
                near, nearer = overlaps(copy.sketch, rows_of)
                told.append(float((near if victim == name else nearer)[names.index(victim)]))
                found.append(_found(copy, name, earlier, 0.0))
        rows.append((what, f"{median(told):.2f}", f"{min(told):.2f}", f"{sum(found)} of {len(found)}"))
    return rows


Change = Callable[[Tensor, Tensor, list[Update]], Tensor]
"""Of the victim's values, what the member would honestly send, and all updates of the round."""


def _ways(generator: torch.Generator, codec: Codec, fewer: Codec) -> dict[str, tuple[Change, Codec]]:
    def noisy(part: float) -> Change:
        def change(theirs: Tensor, _: Tensor, __: list[Update]) -> Tensor:
            added = torch.randn(theirs.shape, generator=generator) * (theirs != 0)
            return theirs + part * added * (theirs.norm() / added.norm())

        return change

    def half(theirs: Tensor, mine: Tensor, _: list[Update]) -> Tensor:
        chosen = torch.rand(theirs.shape, generator=generator) < 0.5
        return torch.where(chosen, theirs, mine * (theirs.norm() / mine.norm()))

    ways: dict[str, tuple[Change, Codec]] = {
        "the same": (lambda theirs, _, __: theirs, PLAIN),
        "0.1 times it": (lambda theirs, _, __: theirs * 0.1, codec),
        "its negative": (lambda theirs, _, __: -theirs, codec),
        **{f"with noise of {part} of its length": (noisy(part), PLAIN) for part in (0.1, 0.3, 0.5, 1.0)},
        "half of its values, half of one's own": (half, PLAIN),
        "the mean of the round": (lambda _, __, every: torch.stack([e.values for e in every]).mean(0), PLAIN),
        "its own, twice as long": (lambda theirs, _, __: theirs * 2, codec),
    }
    if codec.plain:
        ways["its largest 64 of 4096, in 8 bits"] = (lambda theirs, _, __: theirs, fewer)
    return ways


# -- cost -------------------------------------------------------------------------------------------------


def _cost(report: Report, settings: Settings, folder: Path) -> None:
    layout = made.layout((16 if settings.quick else 48) << 20)
    repeat = 3 if settings.quick else 5
    store = BlobStore.open(folder / "blobs")
    store.put(layout.to_bytes(), durable=False)
    engine, at = Engine(store, threads=1), SketchAt(seed=SEED, run="run", round=1)
    every = {"fp32": PLAIN} | {name: codec for name, codec in codecs.codecs().items() if "8 bits" not in name}
    rows = []
    for name, codec in every.items():
        delta = _delta(store, layout, codec)
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(2 * repeat + 2):
            drawn = bool(number % 2)
            start = time.process_time()
            engine.screen(delta, layout.digest, codec, 0, None, at if drawn else None)
            if number > 1:
                times[drawn].append(time.process_time() - start)
        plain, with_sketch = median(times[False]), median(times[True])
        rows.append((name, f"{plain * 1e3:.0f}", f"{with_sketch * 1e3:.0f}", f"{with_sketch / plain:.2f}"))
    report.section(
        "Screening with and without a sketch",
        f"{layout.elements / 1e6:.0f} million values, read, verified and looked at; ms of processor time of "
        "one thread, in turn.",
    )
    report.table(("encoding", "without", "with", "ratio"), rows)
    path = folder / "sketches" / "run"
    for number in range(2, 65):
        (path / str(number)).symlink_to(path / "1")
    others = tuple(
        Sketched(round=number, delta=delta, own=node == 0) for number in range(1, 65) for node in range(8)
    )
    job = OverlapJob(seed=SEED, run="run", round=1, delta=delta, largest=1.0, others=others)
    start = time.process_time()
    engine.overlap(job)
    taken = time.process_time() - start
    report.paragraph(
        f"Comparing with {len(job.others)} sketches, of 8 nodes and 64 rounds: {taken * 1e3:.0f} ms; a "
        f"sketch is a file of {FILE_BYTES} bytes, whatever the model."
    )


def _delta(store: BlobStore, layout: Layout, codec: Codec) -> str:
    if codec.plain:
        return made.put_artifact(store, layout, "delta", 1)
    blobs = []
    for shard in layout.shards:
        data = ShardCodec(codec).encode_(shard, torch.randn(shard.elements) * 1e-3)
        blobs.append(Blob(sha256=store.put(data, durable=False), bytes=len(data)))
    return store.put(
        Artifact(kind="delta", layout=layout.digest, shards=tuple(blobs)).to_bytes(), durable=False
    )
