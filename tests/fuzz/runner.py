"""Runs inputs and keeps count: what came of each, how long and how much memory the worst one took.

A batch runs in a forked process with a cap on its memory. Which input it is at stands in memory that the
parent sees, so an input that kills the process, or never ends, is known by its number. What an input is
depends on target, seed and number alone, so any finding can be repeated.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import cpu_seconds

from tapestry.host import files
from tests.fuzz.target import MIB, Target

CORPUS: Final = Path(__file__).parent / "corpus"
SLOW_S: Final = 1.0
"""Of processor time, so that a busy machine finds nothing that is not there."""
HANG_S: Final = 15.0
"""Of processor time."""
ASLEEP_S: Final = 300.0
"""Of the clock: an input that waits for something, and is not just kept waiting."""
BATCH: Final = 20_000
"""Inputs of one process at most."""
TURN_S: Final = 10.0
"""Of a target, where time is shared."""
SPARE_BYTES: Final = 64 * MIB
"""Address space beyond a target's cap: what libraries reserve and do not use."""
MOST_KEPT: Final = 3
"""Cases kept of one finding of one target."""
TOTALS: Final = "totals.json"
RUNNER_FAILED: Final = 90
"""Exit code of a process that found a fault of its own."""


class OtherBytes(Exception):
    """An accepted input that is not the one encoding of what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that was not met as it should be."""

    number: int
    kind: str
    detail: str


@dataclass
class Count:
    """What came of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest: int = -1
    most_bytes: int = 0
    """That a process grew by, over all its inputs."""
    next: dict[str, int] = field(default_factory=dict)
    """By seed: the number to go on at."""

    def add(self, other: Count) -> None:
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.refused.update(other.refused)
        self.found.update(other.found)
        self.seconds += other.seconds
        self.most_bytes = max(self.most_bytes, other.most_bytes)
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "refused": dict(self.refused), "found": dict(self.found)}

    @classmethod
    def of(cls, value: dict[str, Any]) -> Count:
        counters = {name: Counter(value[name]) for name in ("refused", "found")}
        return cls(**{**value, **counters})


def judge(target: Target, data: bytes) -> tuple[str, str]:
    """What comes of an input: `accepted`, a class of refusal, or a finding's kind; and the detail of that.

    Whatever is raised, also what is no `Exception`, is an outcome.
    """
    try:
        again = target.parser.call(data)
        if again is not None and again != data:
            raise OtherBytes(f"{len(data)} bytes were accepted, {len(again)} other ones encode the same")
    except target.refusals as e:
        return f"refused:{type(e).__name__}", ""
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        traceback.clear_frames(e.__traceback__)  # they may hold all the memory there is
        where = next(
            (
                f"{Path(f.filename).name}:{f.name}"
                for f in reversed(traceback.extract_tb(e.__traceback__))
                if "tapestry" in f.filename
            ),
            "",
        )
        kind = "other-bytes" if isinstance(e, OtherBytes) else f"untyped-{type(e).__name__}"
        return f"found:{kind}", f"{where} {type(e).__name__}: {str(e)[:300]!r}"
    return "accepted", ""


def run_inputs(
    target: Target,
    numbers: Iterator[int],
    make: Callable[[int], bytes],
    at: Callable[[int], None],
    end: float = 1e18,
) -> tuple[Count, list[Finding]]:
    """Inputs one after the other in this process. `at` is told each number before its input is parsed."""
    count, found = Count(), []
    started = time.process_time()
    base = _grown()
    for number in numbers:
        if time.monotonic() > end:
            break
        data = make(number)
        at(number)
        before = time.process_time()
        outcome, detail = judge(target, data)
        took = time.process_time() - before
        count.inputs += 1
        if took > count.slowest_s:
            count.slowest_s, count.slowest = took, number
        grown = _grown() - base
        if grown > max(target.memory_bytes, count.most_bytes):
            found.append(Finding(number, "fat", f"the process grew by {grown} bytes"))
        count.most_bytes = max(count.most_bytes, grown)
        if took > SLOW_S:
            found.append(Finding(number, "slow", f"{took:.2f} s"))
        if outcome == "accepted":
            count.accepted += 1
        elif outcome.startswith("refused:"):
            count.refused[outcome.removeprefix("refused:")] += 1
        else:
            found.append(Finding(number, outcome.removeprefix("found:"), detail))
    count.found.update(each.kind for each in found)
    count.seconds = time.process_time() - started
    return count, found


def _grown() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Batch:
    """Inputs `start` to `stop` of one target in a process of its own."""

    def __init__(self, target: Target, seed: int, start: int, stop: int, *, seconds: float) -> None:
        self._target, self._seed = target, seed
        self._start, self._stop, self._seconds = start, stop, seconds
        self._shared = mmap.mmap(-1, 16)
        self._told, self._told_in = os.pipe()
        self._pid = 0

    def run(self) -> tuple[Count, list[Finding], int]:
        """What came of them, and the number to go on at. An input that the process did not survive is one of
        the findings; those before it are run once more for their count."""
        if not self._target.alone:
            self._target.parser  # noqa: B018 - made once, for all processes
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._child()
        os.close(self._told_in)
        try:
            said = self._listen()
            _, status = os.waitpid(self._pid, 0)
        finally:
            os.close(self._told)
        if said and os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            value = json.loads(said)
            count = Count.of(value["count"])
            return count, [Finding(**each) for each in value["found"]], self._start + count.inputs
        number = self._at()
        if number < 0 or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == RUNNER_FAILED):
            raise RuntimeError(f"target {self._target.name} cannot be run; see standard error")
        kind = "hang" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else "died"
        count, found = Count(), []
        if number > self._start:
            count, found, _ = Batch(self._target, self._seed, self._start, number, seconds=1e18).run()
        count.inputs += 1
        count.found[kind] += 1
        found.append(Finding(number, kind, f"the process ended with status {status}"))
        return count, found, number + 1

    def _at(self) -> int:
        (number,) = struct.unpack_from("<q", self._shared)
        return int(number)

    def _listen(self) -> bytes:
        """What the child says when it is done; it is killed where one input takes for ever."""
        said, last = b"", -1
        since, worked_s = time.monotonic(), cpu_seconds(self._pid)
        os.set_blocking(self._told, False)
        while True:
            try:
                piece = os.read(self._told, 1 << 16)
                if not piece:
                    return said
                said += piece
            except BlockingIOError:
                time.sleep(0.02)
            if (now := self._at()) != last:
                last, since, worked_s = now, time.monotonic(), cpu_seconds(self._pid)
                continue
            more_s = 60 * (now < 0)  # until it is at the first
            works_s, waits_s = cpu_seconds(self._pid) - worked_s, time.monotonic() - since
            if works_s > HANG_S + more_s or waits_s > ASLEEP_S + more_s:
                os.kill(self._pid, signal.SIGKILL)

    def _child(self) -> None:
        """Never returns."""
        code = RUNNER_FAILED
        try:
            os.close(self._told)
            struct.pack_into("<q", self._shared, 0, -1)
            parser = self._target.parser
            for each in parser.seeds:
                judge(self._target, each)  # what is loaded at the first use is no input's fault
            self._limit()
            make = lambda number: self._target.input(self._seed, number)  # noqa: E731
            told = lambda number: struct.pack_into("<q", self._shared, 0, number)  # noqa: E731
            end = time.monotonic() + self._seconds
            count, found = run_inputs(self._target, iter(range(self._start, self._stop)), make, told, end)
            parser.close()
            said = json.dumps({"count": count.told(), "found": [asdict(each) for each in found]}).encode()
            while said:
                said = said[os.write(self._told_in, said) :]
            code = 0
        except MemoryError:
            code = 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _limit(self) -> None:
        """What is asked for beyond the cap fails at once, wherever it is asked for."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + self._target.memory_bytes + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep(target: Target, seed: int, found: Sequence[Finding], folder: Path = CORPUS) -> list[Path]:
    """Write the inputs of findings, a few of each kind, where the tests run them for good."""
    written = []
    own = folder / target.name
    for each in found:
        import hashlib

        data = target.input(seed, each.number)
        place = hashlib.sha256(each.detail.split(":")[0].encode()).hexdigest()[:6]
        start = f"{each.kind}-{place}"
        if len(list(own.glob(f"{start}-*"))) >= MOST_KEPT or len(data) > 256 << 10:
            continue
        own.mkdir(parents=True, exist_ok=True)
        path = own / f"{start}-{seed}-{each.number}"
        path.write_bytes(data)
        written.append(path)
    return written


def kept(target: Target) -> list[Path]:
    """Cases found before."""
    folder = CORPUS / target.name
    return sorted(folder.iterdir()) if folder.is_dir() else []


class Totals:
    """Counts of all runs so far, in one file."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / TOTALS
        self.counts: dict[str, Count] = {}
        if self._path.exists():
            value = json.loads(self._path.read_text())
            self.counts = {name: Count.of(each) for name, each in value.items()}

    def of(self, name: str) -> Count:
        return self.counts.setdefault(name, Count())

    def save(self) -> None:
        value = {name: count.told() for name, count in sorted(self.counts.items())}
        files.write_atomic(self._path, json.dumps(value, indent=1).encode() + b"\n", durable=False)


def run(
    targets: Sequence[Target],
    *,
    seed: int,
    out: Path,
    count: int | None = None,
    minutes: float | None = None,
    corpus: Path = CORPUS,
    told: Callable[[str], None] = print,
) -> int:
    """Go on where the last run with this seed ended; returns how many findings there were.

    Args:
        targets: in turn.
        seed: of the inputs.
        out: folder of the totals.
        count: inputs of each target.
        minutes: for all of them together, where no count is given.
        corpus: where found cases are kept.
        told: hears of findings.
    """
    totals, findings = Totals(out), 0
    end = time.monotonic() + 60 * minutes if minutes is not None else 1e18
    turn_s = min(TURN_S, 60 * (minutes or 1) / len(targets))
    left = {target.name: count if count is not None else 1 << 62 for target in targets}
    while any(left.values()) and time.monotonic() < end:
        for target in targets:
            if not left[target.name] or time.monotonic() >= end:
                continue
            total = totals.of(target.name)
            start = total.next.get(str(seed), 0)
            most = min(BATCH, left[target.name])
            batch = Batch(target, seed, start, start + most, seconds=turn_s if count is None else 1e18)
            some, found, total.next[str(seed)] = batch.run()
            total.add(some)
            left[target.name] = max(0, left[target.name] - some.inputs)
            findings += len(found)
            keep(target, seed, found, corpus)
            for each in found[:5]:
                told(f"{target.name} seed {seed} number {each.number}: {each.kind}: {each.detail}")
            totals.save()
    return findings
