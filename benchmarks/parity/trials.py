"""Trials one after the other, each kept as a line of JSON: a second call goes on where one stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from benchmarks.parity import simulate
from benchmarks.parity.methods import METHODS, Knobs, Method, grid
from benchmarks.report import Hardware
from tapestry.errors import FormatError
from tapestry.host import files

FILE: Final = "trials.jsonl"
TUNING_SEED: Final = 0
"""The seed whose trials choose a method's knobs. It is among the seeds that are compared."""
KEY: Final = ("setting", "members", "setup", "method", "rules", "knobs", "seed", "share")
"""Fields of a record that say which trial it is."""

Record = dict[str, Any]
"""A finished trial; see `Bench._record`."""


def digest(value: Any) -> str:
    """Of a JSON value, short."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def rules(method: Method) -> str:
    """Of what a method says in the plan; a trial under other rules is another trial."""
    return digest({"kind": method.kind, "tables": method.tables})


def mean(record: Record) -> float:
    """Bits per byte, the mean over members; infinite for a trial that diverged."""
    scores = record["bits_per_byte"]
    return fmean(scores.values()) if scores and not record["diverged"] else float("inf")


class Book:
    """The file of finished trials. One process at a time writes it.

    Args:
        folder: it lies in.

    Raises:
        FormatError: a line that is no record. What was cut off at the end is passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        data = self.path.read_bytes() if self.path.exists() else b""
        self._whole = data.rfind(b"\n") + 1
        self.records: list[Record] = []
        for number, line in enumerate(data[: self._whole].splitlines(), 1):
            try:
                record = json.loads(line)
                self.records.append({**dict.fromkeys(KEY), **record})
            except (ValueError, TypeError) as e:
                raise FormatError(
                    f"line {number} of {self.path} is no trial", hint="remove the line; its trial runs again"
                ) from e

    def find(self, key: Record) -> Record | None:
        """The trial with these fields of `KEY`, where it is done."""
        for record in self.records:
            if all(record[name] == key[name] for name in KEY):
                return record
        return None

    def add(self, record: Record) -> None:
        """On disk for good when this returns; it takes the place of a line that was cut off."""
        data = json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        with files.full_disk(self.path), open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._whole += len(data)
        self.records.append(record)


@dataclass(kw_only=True)
class Bench:
    """Tunes methods and compares them.

    Args:
        world: text, model, device.
        book: of finished trials.
        rates: learning rates to try; None: the setting's.
        seeds: how many.
        share: of the tokens that trials of the tuning take.
        until: `time.monotonic()` after which no trial begins.
        say: takes a line for each trial.
    """

    world: simulate.World
    book: Book
    rates: Sequence[float] | None = None
    seeds: int = 1
    share: float = 1.0
    until: float = float("inf")
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        corpora = {name: corpus.digest for name, corpus in self.world.corpora.items()}
        self.setup = digest({"setting": self.world.setting.identity(), "corpora": corpora})

    def conduct(self, names: Sequence[str]) -> bool:
        """Every trial of these methods that is not done yet; False where the time did not suffice."""
        for name in names:
            for knobs in grid(METHODS[name], self.world.setting, self.rates):
                if self.once(name, knobs, TUNING_SEED, self.share) is None:
                    return False
            best = self.best(name)
            if best["diverged"]:
                self.say(f"{name}: every trial diverged")
                continue
            for seed in range(self.seeds):
                if self.once(name, Knobs(**best["knobs"]), seed, 1.0) is None:
                    return False
        return True

    def best(self, name: str) -> Record:
        """Of all trials that chose knobs for a method, at these rates or others, the one with least loss."""
        any_knobs = Knobs(learning_rate=0.0, sequences=0)
        key = self.key(name, any_knobs, TUNING_SEED, self.share)
        same = [field for field in KEY if field != "knobs"]
        return min((r for r in self.book.records if all(r[f] == key[f] for f in same)), key=mean)

    def once(self, name: str, knobs: Knobs, seed: int, share: float) -> Record | None:
        """The record of a trial, which runs if it is not done; None where the time is up."""
        key = self.key(name, knobs, seed, share)
        if (done := self.book.find(key)) is not None:
            return done
        if time.monotonic() >= self.until:
            return None
        started = time.monotonic()
        outcome = simulate.run(self.world, METHODS[name], knobs, seed=seed, share=share)
        seconds = time.monotonic() - started
        record = self._record(key, outcome, seconds)
        self.book.add(record)
        found = outcome.diverged or f"{mean(record):.4f} bits per byte"
        traffic = f"{outcome.traffic.total / 1e6:.3g} MB"
        self.say(f"{name}: {knobs.describe()}, seed {seed}: {found}, {traffic}, {seconds:.1f} s")
        return record

    def key(self, name: str, knobs: Knobs, seed: int, share: float) -> Record:
        """Which trial it is."""
        return {
            "setting": self.world.setting.name,
            "members": sorted(self.world.corpora),
            "setup": self.setup,
            "method": name,
            "rules": rules(METHODS[name]),
            "knobs": asdict(knobs),
            "seed": seed,
            "share": share,
        }

    def _record(self, key: Record, outcome: simulate.Outcome, seconds: float) -> Record:
        traffic = outcome.traffic
        return key | {
            "parameters": outcome.parameters,
            "tokens": self.world.setting.tokens(outcome.parameters, key["share"]),
            "steps": outcome.steps,
            "rounds": outcome.rounds,
            "initial": outcome.initial,
            "bits_per_byte": outcome.scores,
            "on_all": outcome.on_all,
            "curve": [list(point) for point in outcome.curve],
            "sent": traffic.sent,
            "received": traffic.received,
            "fetched": traffic.fetched,
            "diverged": outcome.diverged,
            "seconds": round(seconds, 3),
            "hardware": str(Hardware.here()),
            "device": str(self.world.device),
            "threads": torch.get_num_threads(),
        }
