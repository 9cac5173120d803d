"""Replaying a large merge from a cold disk: eight contributions to a base of 10^9 parameters in fp32.

The worker (`replay.client.Replayer`) reads and verifies every input, merges, hashes, writes and syncs the
new base and momentum. Beside it, in the same run and in turn, the simplest loop with as many threads: for
each shard read and hash the same files, then hash, write and sync as many bytes. Before each, all inputs
are dropped from the page cache; what was read from the disk is counted. All contributions are distinct
files.

As in the first merge of a run, there is no momentum to read yet (44 GB of disk at full size); with
`--momentum` there is (48 GB).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import made
from benchmarks.machine import WRITE_BYTES, chill, disk_reads, peaks, say, scratch
from benchmarks.report import Report, Settings, rates, spread
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.layout import ELEMENT_BYTES, Layout
from tapestry.replay.client import Replayer
from tapestry.replay.job import MergeJob
from tapestry.storage.blobs import BlobStore

FULL_PARAMETERS, QUICK_PARAMETERS = 1_000_000_000, 16 << 20
FULL_CONTRIBUTIONS = 8
FULL_REPEAT = 3
GOAL = 2.0
LIMIT_MB = 600
OUTPUTS = 2
"""Base and momentum."""
THREADS = max(1, min(8, os.cpu_count() or 1))
"""As many as a core gives its worker."""


@dataclass(frozen=True)
class Size:
    """Of one merge."""

    layout: Layout
    contributions: int
    momentum: bool

    @property
    def artifact_bytes(self) -> int:
        return self.layout.elements * ELEMENT_BYTES

    @property
    def inputs(self) -> int:
        return self.contributions + 1 + self.momentum

    @property
    def input_bytes(self) -> int:
        return self.inputs * self.artifact_bytes

    @property
    def disk_bytes(self) -> int:
        return (self.inputs + OUTPUTS) * self.artifact_bytes


@dataclass
class Side:
    """Of one of the two, a value a repetition: seconds, and GB that came from the disk."""

    times: list[float] = field(default_factory=list)
    from_disk: list[float] = field(default_factory=list)


def measure(settings: Settings) -> Report:
    parameters = settings.parameters or (QUICK_PARAMETERS if settings.quick else FULL_PARAMETERS)
    size = Size(
        layout=made.layout(parameters * ELEMENT_BYTES),
        contributions=settings.contributions or FULL_CONTRIBUTIONS,
        momentum=settings.momentum,
    )
    repeat = settings.repeat or (2 if settings.quick else FULL_REPEAT)
    loop, worker = Side(), Side()
    began = time.perf_counter()
    with scratch(needs_bytes=size.disk_bytes) as root:
        store = BlobStore.open(root / "blobs")
        job = _make(store, size)
        inputs = _input_files(store, job)
        laid_s = time.perf_counter() - began
        with Replayer(store.root, threads=THREADS) as replayer:
            replayer.start()
            pid = replayer.pid
            assert pid is not None
            with peaks(lambda: {"worker": pid}) as memory:
                idle = memory["worker"]
                for number in range(repeat):
                    say(f"replay: repetition {number + 1} of {repeat}")
                    for name in ("worker", "loop") if number % 2 else ("loop", "worker"):
                        if name == "loop":
                            _loop_turn(loop, inputs, root / "plain")
                        else:
                            _worker_turn(worker, inputs, store, replayer, job)
    _foretell(size, repeat, laid_s, time.perf_counter() - began - laid_s)
    return _report(size, loop, worker, idle, memory["worker"])


def _foretell(size: Size, repeat: int, laid_s: float, run_s: float) -> None:
    full = Size(made.layout(FULL_PARAMETERS * ELEMENT_BYTES), FULL_CONTRIBUTIONS, size.momentum)
    minutes = (laid_s + run_s * FULL_REPEAT / repeat) * full.disk_bytes / size.disk_bytes / 60
    say(
        f"replay: {size.disk_bytes / 1e9:.1f} GB took {laid_s + run_s:.0f} s, {laid_s:.0f} s of it to make "
        f"them; at this pace {FULL_PARAMETERS} parameters, {FULL_CONTRIBUTIONS} contributions and "
        f"{FULL_REPEAT} repetitions take {minutes:.0f} minutes and {full.disk_bytes / 1e9:.0f} GB of disk"
    )


def _make(store: BlobStore, size: Size) -> MergeJob:
    say(f"replay: making {size.input_bytes / 1e9:.1f} GB")
    state = made.put_state(store, size.layout, momentum=size.momentum)
    stopped = threading.Event()

    def put(seed: int) -> str:
        return made.put_artifact(store, size.layout, "delta", seed, stopped)

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            deltas = list(pool.map(put, range(size.contributions)))
        finally:
            stopped.set()
    return made.job(store, size.layout, state, deltas, durable=True)


def _input_files(store: BlobStore, job: MergeJob) -> list[list[Path]]:
    """By shard: every contribution's file, the base's and the momentum's."""
    state = State.from_bytes(store.read(job.state))
    digests = [*(merged.delta for merged in job.contributions), state.base, state.outer]
    manifests = [Artifact.from_bytes(store.read(sha)) for sha in digests if sha is not None]
    return [
        [store.path(blob.sha256) for blob in blobs]
        for blobs in zip(*(manifest.shards for manifest in manifests), strict=True)
    ]


# -- the worker -------------------------------------------------------------------------------------------


def _worker_turn(
    side: Side, inputs: list[list[Path]], store: BlobStore, replayer: Replayer, job: MergeJob
) -> None:
    pid = replayer.pid
    assert pid is not None
    with _timed(side, inputs, pid):
        result = replayer.merge(job)
    made.forget(store, result)


# -- the simplest loop ------------------------------------------------------------------------------------


def _loop_turn(side: Side, inputs: list[list[Path]], folder: Path) -> None:
    folder.mkdir()
    with _timed(side, inputs, os.getpid()):
        _loop(inputs, folder)
    shutil.rmtree(folder)


def _loop(inputs: Sequence[Sequence[Path]], folder: Path) -> None:
    """Read and hash the files of each shard; hash, write and sync as many as a merge writes."""
    largest = max(paths[0].stat().st_size for paths in inputs)
    here = threading.local()

    def shard(number: int) -> None:
        if not hasattr(here, "buffer"):
            here.buffer = memoryview(bytearray(largest))
        for path in inputs[number]:
            with path.open("rb", buffering=0) as file:
                size = file.readinto(here.buffer)
            hashlib.sha256(here.buffer[:size]).digest()
        for output in range(OUTPUTS):
            hashlib.sha256(here.buffer[:size]).digest()
            _write(folder / f"{number}.{output}", here.buffer[:size])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(shard, range(len(inputs))))


def _write(path: Path, data: memoryview) -> None:
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(data), WRITE_BYTES):
            file.write(data[start : start + WRITE_BYTES])
        os.fsync(file.fileno())


@contextmanager
def _timed(side: Side, inputs: Sequence[Sequence[Path]], pid: int) -> Iterator[None]:
    """Note how long the block takes, with cold inputs, and what `pid` read from the disk meanwhile."""
    chill(path for paths in inputs for path in paths)
    before = disk_reads(pid)
    start = time.perf_counter()
    yield
    side.times.append(time.perf_counter() - start)
    side.from_disk.append((disk_reads(pid) - before) / 1e9)


# -- report -----------------------------------------------------------------------------------------------


def _report(size: Size, loop: Side, worker: Side, idle: int, most: int) -> Report:
    report = Report(
        what="replay" if size.layout.elements >= FULL_PARAMETERS else "replay-small",
        title=f"Replay of {size.contributions} contributions to {size.layout.elements / 1e9:.3g} · 10^9 "
        "parameters",
        not_shown=[
            "In a virtual machine the host may have in its own memory what the guest reads from its disk.",
            "The values are one block of random normal numbers an artifact, times a factor for each shard.",
            "The core also screens each contribution as it comes: one more reading, not in these figures.",
            "One file system, one disk, as many threads as the machine has cores.",
        ],
    )
    written = OUTPUTS * size.artifact_bytes
    momentum = "and momentum " if size.momentum else ""
    report.section(
        "Time of one merge, from a cold disk",
        f"{THREADS} threads, shards of {size.layout.shard_bytes >> 20} MiB; {size.contributions} "
        f"contributions and base {momentum}read: {size.input_bytes / 1e9:.1f} GB; new base and momentum "
        f"written and synced: {written / 1e9:.1f} GB. Goal: at most {GOAL:g} times the loop.",
    )
    ratio = median(worker.times) / median(loop.times)
    rows = []
    for name, side, beside in (
        ("simplest loop: read, hash; hash, write, sync", loop, "1"),
        ("replay worker", worker, f"{ratio:.2f}"),
    ):
        speed = rates(size.input_bytes / 1e9, side.times)
        rows.append([name, spread(side.times, 1), beside, spread(speed), spread(side.from_disk, 1)])
    report.table(["", "seconds", "to the loop", "GB/s of input", "GB read from the disk"], rows)
    report.section("Anonymous memory of the worker", "RssAnon, asked every 10 ms. MB.")
    report.table(["idle", "most", "goal, at most"], [[f"{idle / 1e6:.0f}", f"{most / 1e6:.0f}", LIMIT_MB]])
    return report
