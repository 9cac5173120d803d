"""What a round cost this node: seconds of training, encoding, moving, repeating merges and standing still,
and bytes. One JSON line a round in `state/times.jsonl`; nothing of it leaves the node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from tapestry.errors import DiskFull, FormatError
from tapestry.host import files
from tapestry.node import lines
from tapestry.node.home import Home
from tapestry.training.spool import TrainResult

What = Literal["uploaded", "downloaded", "replayed"]
MAX_SHOWN: Final = 1000
"""Rounds that a summary looks at."""
MAX_BYTES: Final = 4 << 20


class Meter:
    """Adds up seconds and bytes, from any thread. Shared by the runs of a node: what is moved counts for the
    run whose round ends next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}

    @contextmanager
    def span(self, what: What) -> Iterator[None]:
        """Count the seconds inside."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(f"{what}_s", time.monotonic() - began)

    def add(self, name: str, amount: float) -> None:
        with self._lock:
            self._sums[name] = self._sums.get(name, 0.0) + amount

    def take(self) -> dict[str, float]:
        """The sums since the last call."""
        with self._lock:
            found, self._sums = self._sums, {}
        return found


class Account:
    """The rounds of one run.

    Args:
        home: of the node.
        run: its name.
        meter: what is moved and repeated.
        traffic: sums of all that this agent has said and heard, `Traffic.as_json`.
    """

    def __init__(
        self, home: Home, run: str, meter: Meter, traffic: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        self._path = home.times
        self._run = run
        self._meter = meter
        self._traffic = traffic
        self._said: Mapping[str, int] = {}
        self._round: int | None = None
        self._began = 0.0
        self._trained: TrainResult | None = None

    def given(self, round: int) -> None:
        """A job was given to the trainer; the round before is over for this node."""
        if round == self._round:
            return
        self.close()
        self._round, self._began, self._trained = round, time.monotonic(), None
        self._said = self._traffic()

    def trained(self, result: TrainResult) -> None:
        """The trainer's result of this round has passed the gate."""
        if result.round == self._round:
            self._trained = result

    def close(self) -> None:
        """Write the line of the round in hand, if it was trained."""
        if self._round is None or self._trained is None:
            return
        moved = self._meter.take()
        result, now = self._trained, time.monotonic()
        line: dict[str, Any] = {
            "time": round(time.time(), 3),
            "run": self._run,
            "round": self._round,
            "tokens": result.tokens,
            "steps": result.steps,
            "whole_s": now - self._began,
            "trained_s": result.train_s,
            "evaluated_s": result.evaluate_s,
            "encoded_s": result.encode_s,
            "waited_s": result.waited_s,
        }
        for name in ("uploaded", "downloaded", "replayed"):
            line[f"{name}_s"] = moved.get(f"{name}_s", 0.0)
        for name in ("uploaded", "downloaded"):
            line[f"{name}_bytes"] = int(moved.get(f"{name}_bytes", 0))
        said = self._traffic()
        for name in ("sent_bytes", "received_bytes", "requests"):  # all of HTTP, shards among it
            if name in said:
                line[name] = said[name] - self._said.get(name, 0)
        rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}
        self._round = None
        with suppress(DiskFull, OSError):  # the round itself is safe elsewhere
            self._make_room()
            lines.append(self._path, [rounded], durable=False)

    def _make_room(self) -> None:
        """Keep the last lines of a file that has grown large."""
        try:
            if self._path.stat().st_size < MAX_BYTES:
                return
        except FileNotFoundError:
            return
        last = self._path.read_bytes()[-MAX_BYTES // 2 :]
        files.write_atomic(self._path, last[last.find(b"\n") + 1 :], durable=False)


def summary(home: Home) -> dict[str, dict[str, Any]]:
    """Of each run: how many of its last rounds were timed, their mean figures, and the part of the time in
    which the trainer trained. The run whose round was timed last comes last."""
    by_run: dict[str, list[dict[str, Any]]] = {}
    timed: dict[str, int] = {}
    with suppress(FormatError):  # damaged by a power cut: what stands before is shown
        for number, line in enumerate(lines.read(home.times)):
            by_run.setdefault(str(line.get("run")), []).append(line)
            timed[str(line.get("run"))] = number
    found = {}
    for run in sorted(by_run, key=timed.__getitem__):
        last = by_run[run][-MAX_SHOWN:]
        means = {
            name: round(sum(float(line.get(name, 0)) for line in last) / len(last), 4)
            for name in last[-1]
            if name.endswith(("_s", "_bytes"))
        }
        whole = means.get("whole_s", 0.0)
        used = round(means.get("trained_s", 0.0) / whole, 4) if whole else None
        found[run] = {"rounds": len(last), "utilisation": used, **means}
    return found
