"""Preferences that cannot be told from the answer alone, learnt by a build: cpt, then sft, then dpo.

Each seed is kept below the temporary folder, and so is each build: a measurement that was stopped goes on, as
long as nothing of it was changed.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import preference_task as task
from benchmarks import sovereign_support
from benchmarks.machine import say
from benchmarks.report import Report, Settings
from benchmarks.sovereign_support import HEAD, accuracy, build, dataset, interval, make_base, stage
from tapestry.host import files
from tapestry.sovereign.home import BuildHome

SEEDS: Final = (0, 1, 2)
WANTED: Final = 0.15
MOST_ALONE: Final = 0.55
PAIRS: Final = 3000
READING: Final[dict[str, Any]] = {"steps": 900, "batch": 8, "learning_rate": 3e-3, "warmup_steps": 20}
"""Of the base."""
TUNING: Final[dict[str, Any]] = {"steps": 200, "batch": 8, "learning_rate": 1e-3, "warmup_steps": 20}
"""Of a build's first two stages."""
PREFERRING: Final[dict[str, Any]] = {"steps": 500, "batch": 16, "learning_rate": 1e-3, "warmup_steps": 20}
"""Of its last one, and of what stands in its place."""
QUICK: Final[dict[str, Any]] = {"steps": 4, "batch": 8, "learning_rate": 1e-3, "warmup_steps": 2}
ROWS: Final = ("base", "sft", "chosen", "shuffled", "dpo")
NAMES: Final = {
    "alone": "classifier that sees the answer alone",
    "base": "base",
    "sft": "continued pre-training and SFT",
    "chosen": "… and SFT on the chosen answers of the pairs, instead of DPO",
    "shuffled": "… and DPO on pairs in which chance decides (control)",
    "dpo": "… and DPO",
}
NOT_SHOWN: Final = (
    "Preferences of people. The task is made up, small, and has one rule that a quarter of a million "
    "parameters can learn.",
    "Kinds of people that no pair names: whom one is polite to is the same in train and held-out pairs; "
    "names, questions and sentences are not.",
    "Adapters: all stages train all weights.",
)


def measure(settings: Settings) -> Report:
    report = Report(
        what="preferences", title="Preferences that the answer alone does not tell", not_shown=NOT_SHOWN
    )
    kept = Path(tempfile.gettempdir()) / "tapestry-preferences" / _measured(settings.quick)
    found = [_seed(kept / str(seed), seed, settings.quick) for seed in SEEDS[: 1 if settings.quick else None]]
    rows = []
    for name in ("alone", *ROWS):
        values = [100 * one[name] for one in found]
        mean, low, high = interval(values)
        each = ", ".join(f"{value:.1f}" for value in values)
        rows.append((NAMES[name], f"{mean:.1f} % ({low:.1f} to {high:.1f})", each))
    gains = {
        name: interval([100 * (one["dpo"] - one[name]) for one in found])
        for name in ("base", "sft", "chosen")
    }
    report.section(
        "Held-out pairs of which the chosen answer is the likelier",
        f"{found[0]['held_out']} held-out pairs, {found[0]['pairs']} to learn from in {PREFERRING['steps']} "
        f"steps of {PREFERRING['batch']} at {PREFERRING['learning_rate']:g}; mean over {len(found)} "
        "seeds (of base, data and order) with its interval of 95 %. Every answer is chosen for as many "
        "prompts as it is rejected for. No prompt and no template of the held-out pairs is among those "
        "learnt from.",
    )
    report.table(("model", "accuracy", "by seed"), rows)
    report.section("What DPO adds", f"Points, with intervals; wanted: {100 * WANTED:.0f} over base and SFT.")
    report.table(
        ("over", "points"),
        [(NAMES[name], f"{mean:.1f} ({low:.1f} to {high:.1f})") for name, (mean, low, high) in gains.items()],
    )
    alone = max(one["alone"] for one in found)
    met = alone <= MOST_ALONE and all(gains[name][1] >= 100 * WANTED for name in ("base", "sft"))
    report.paragraph(f"Wanted and met: {'yes' if met or settings.quick else 'no'}.")
    return report


def _measured(quick: bool) -> str:
    """Stands for all that the figures depend on: what was kept of other settings is not taken for these."""
    sources = [Path(str(module.__file__)) for module in (task, sovereign_support)]
    said = [*(path.read_bytes() for path in sources), Path(__file__).read_bytes(), str(quick).encode()]
    return hashlib.sha256(b"\0".join(said)).hexdigest()[:12]


def _seed(root: Path, seed: int, quick: bool) -> dict[str, Any]:
    done = root / "figures.json"
    if done.exists():
        return dict(json.loads(done.read_bytes()))
    say(f"preferences: seed {seed}")
    size = 64 if quick else PAIRS
    train, held_out = task.pairs("train", size, seed), task.pairs("held-out", 40 if quick else 400, seed)
    _require_disjoint(train, held_out)
    base = _base(root, seed, quick)
    homes = _builds(root, base, seed, train, quick)
    rows = [pair.row() for pair in held_out]
    models = {
        "base": base,
        "sft": homes["dpo"].stage(2, "sft") / "result",
        **{name: homes[name].model for name in ("chosen", "shuffled", "dpo")},
    }
    found: dict[str, Any] = {name: accuracy(folder, base, rows) for name, folder in models.items()}
    found |= {
        "alone": task.by_response_alone(train, held_out),
        "held_out": len(held_out),
        "pairs": len(train),
    }
    files.write_atomic(done, json.dumps(found).encode())
    return found


def _require_disjoint(train: list[task.Pair], held_out: list[task.Pair]) -> None:
    assert not {each.prompt for each in train} & {each.prompt for each in held_out}
    assert not set(task.TEMPLATES["train"]) & set(task.TEMPLATES["held-out"])


def _base(root: Path, seed: int, quick: bool) -> Path:
    """A model that read other text before: a build of its own from random weights."""
    empty = make_base(root / "empty", seed=seed, hidden=32 if quick else 96, layers=2)
    reading = dataset(root, "reading", "private-cpt", task.text(20 if quick else 400, seed + 1000))
    text = HEAD.format(name="base", base=empty, cards=root / "cards", seed=seed)
    text += stage("cpt", reading, sequence_length=128, **(QUICK if quick else READING))
    return build(root / "base", text).model


def _builds(root: Path, base: Path, seed: int, train: list[task.Pair], quick: bool) -> dict[str, BuildHome]:
    """The build that is measured, and two others that go on from its second stage."""
    tuning, preferring = (QUICK, QUICK) if quick else (TUNING, PREFERRING)
    own = dataset(root, "own", "private-cpt", task.text(20 if quick else 300, seed))
    answers = dataset(root, "answers", "sft", task.answers(64 if quick else 1200, seed))
    head = stage("cpt", own, sequence_length=128, **tuning)
    head += stage("sft", answers, sequence_length=128, **tuning)
    shuffled = [pair.row() for pair in train]
    for number, row in enumerate(shuffled):
        if hash_of(seed, number) % 2:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    chosen = [{"prompt": pair.prompt, "completion": pair.chosen} for pair in train]
    last = {
        "dpo": ("dpo", dataset(root, "pairs", "preference", [pair.row() for pair in train])),
        "shuffled": ("dpo", dataset(root, "shuffled-pairs", "preference", shuffled)),
        "chosen": ("sft", dataset(root, "chosen-answers", "sft", chosen)),
    }
    made: dict[str, BuildHome] = {}
    for name, (kind, data) in last.items():
        begins = base if name == "dpo" else made["dpo"].stage(2, "sft") / "result"
        text = HEAD.format(name=name, base=begins, cards=root / "cards", seed=seed)
        text += (head if name == "dpo" else "") + stage(kind, data, sequence_length=128, **preferring)
        made[name] = build(root / name, text)
    return made


def hash_of(seed: int, number: int) -> int:
    return hashlib.sha256(f"{seed} {number}".encode()).digest()[0]
