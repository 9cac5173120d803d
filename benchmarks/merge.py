"""The merge: arithmetic alone, the replay engine with reading, hashing and writing, memory of the worker.

Goals: 5 GB/s of contributions for the arithmetic and 1.2 GB/s of input for the engine, on two threads;
600 MB of memory whatever the model. Limits of the machine are measured in the same run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks import made
from benchmarks.machine import peaks, scratch
from benchmarks.report import Report, Settings, rates, seconds, spread
from tapestry.merge import kernel
from tapestry.merge.scalars import weight
from tapestry.protocol.layout import Layout
from tapestry.replay.client import Replayer
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import UNIT
from tapestry.storage.blobs import BlobStore

THREADS = 2
SHARD_ELEMENTS = (8 << 20) // 4
NOT_SHOWN = (
    "Inputs lie in the page cache. On a cold disk reading sets the pace.",
    "In a virtual machine that was started lately, writing is slower until the host has handed out the "
    "memory of the page cache; a first run pays for that (see the spread of the write rates).",
    "One machine, one file system; more cores were not tried.",
    "Values are random normal numbers; the arithmetic's speed with many denormals is lower on some CPUs.",
    "Peers' figures were taken on another day, on a machine of the same size, with their own "
    "serialization; they are whole rounds, not merges.",
)


def measure(settings: Settings) -> Report:
    report = Report(what="merge", title="Merge and replay", not_shown=NOT_SHOWN)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _arithmetic(report, settings)
    finally:
        torch.set_num_threads(before)
    with scratch() as folder:
        _engine(report, settings, folder / "engine")
        _memory(report, settings, folder / "memory")
    _peers(report)
    return report


# -- (a) arithmetic ---------------------------------------------------------------------------------------


def _arithmetic(report: Report, settings: Settings) -> None:
    elements = (32 << 20 if settings.quick else 256 << 20) // 4
    repeat = 3 if settings.quick else 7
    report.section(
        "Arithmetic alone",
        f"{THREADS} threads, contributions of {elements * 4 >> 20} MiB in memory, read once each. "
        "GB/s of contributions. Goal: 5.",
    )
    deltas = [torch.randn(elements) for _ in range(8)]
    base, momentum, total = torch.randn(elements), torch.zeros(elements), torch.empty(elements)
    rows = []
    for count in (4, 8):
        for name, work in _arithmetic_cases(deltas[:count], base, momentum, total):
            work()
            speed = rates(4 * elements * count / 1e9, seconds(work, repeat=repeat))
            rows.append((name, count, spread(speed)))
    report.table(("what", "contributions", "GB/s"), rows)


def _arithmetic_cases(
    deltas: list[torch.Tensor], base: torch.Tensor, momentum: torch.Tensor, total: torch.Tensor
) -> list[tuple[str, Callable[[], object]]]:
    weights = [UNIT // len(deltas)] * len(deltas)
    n = base.numel()
    return [
        ("weighted sum", lambda: _each(n, lambda s, w: _sum(total, deltas, weights, s, w))),
        (
            "weighted sum and outer step",
            lambda: _each(n, lambda s, w: _sum_and_step(total, deltas, weights, base, momentum, s, w)),
        ),
        ("limit: copy the contributions", lambda: _each(n, lambda s, _: _copy(total, deltas, s))),
        ("limit: add them without weights", lambda: _each(n, lambda s, _: _add(total, deltas, s))),
        ("plain torch: total += d * w, two intra-op threads", lambda: _naive(deltas, weights)),
    ]


def _each(elements: int, work: Callable[[slice, torch.Tensor], None]) -> None:
    """`work` on every shard-sized slice, on `THREADS` threads as the engine does it."""
    slices = iter([slice(i, i + SHARD_ELEMENTS) for i in range(0, elements, SHARD_ELEMENTS)])
    lock = threading.Lock()

    def run() -> None:
        block = kernel.scratch()
        while True:
            with lock:
                part = next(slices, None)
            if part is None:
                return
            work(part, block)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run) for _ in range(THREADS)]:
            done.result()


def _sum(
    total: torch.Tensor, deltas: list[torch.Tensor], weights: list[int], part: slice, block: torch.Tensor
) -> None:
    gradient = total[part].zero_()
    for delta, units in zip(deltas, weights, strict=True):
        kernel.accumulate(gradient, delta[part], weight(units), block)


def _sum_and_step(
    total: torch.Tensor,
    deltas: list[torch.Tensor],
    weights: list[int],
    base: torch.Tensor,
    momentum: torch.Tensor,
    part: slice,
    block: torch.Tensor,
) -> None:
    _sum(total, deltas, weights, part, block)
    outer = kernel.Outer.nesterov(rate=0.7, momentum=0.9)
    kernel.step(base[part], momentum[part], total[part], outer, block)


def _copy(total: torch.Tensor, deltas: list[torch.Tensor], part: slice) -> None:
    for delta in deltas:
        total[part].copy_(delta[part])


def _add(total: torch.Tensor, deltas: list[torch.Tensor], part: slice) -> None:
    total[part].zero_()
    for delta in deltas:
        total[part].add_(delta[part])


def _naive(deltas: list[torch.Tensor], weights: list[int]) -> None:
    torch.set_num_threads(THREADS)
    try:
        total = torch.zeros_like(deltas[0])
        for delta, units in zip(deltas, weights, strict=True):
            total += delta * (units / UNIT)
    finally:
        torch.set_num_threads(1)


# -- (b) engine -------------------------------------------------------------------------------------------


def _engine(report: Report, settings: Settings, root: Path) -> None:
    size = (32 if settings.quick else 256) << 20
    repeat = 3 if settings.quick else 7
    store = BlobStore.open(root / "blobs")
    layout = made.layout(size)
    state = made.put_state(store, layout, momentum=True)
    deltas = [made.put_artifact(store, layout, "delta", seed) for seed in range(8)]
    os.sync()
    sha, writes = _sha_rates(repeat), _write_rates(root / "written", layout, repeat)
    report.section(
        "Replay engine",
        f"Through the worker, {THREADS} threads: read, verify, merge, hash, write. Model of {size >> 20} "
        "MiB, shards of 8 MiB, Nesterov with momentum. GB/s of input: contributions, base, momentum. Goal: "
        "1.2. The limit in the last column is the hashing alone, at the SHA-256 rate below, of all that is "
        "read and written.",
    )
    rows = []
    with Replayer(store.root, threads=THREADS) as replayer:
        for durable in (False, True):
            for count in (4, 8):
                job = made.job(store, layout, state, deltas[:count], durable=durable)
                times, read = _merge_times(replayer, store, job, repeat)
                limit = median(sha[THREADS]) * read / (read + 2 * size)
                rows.append(
                    (count, "yes" if durable else "no", spread(rates(read / 1e9, times)), f"{limit:.2f}")
                )
    report.table(("contributions", "durable", "GB/s of input", "limit: SHA-256 alone"), rows)
    report.paragraph("Limits of the machine, in the same run, files of 8 MiB:")
    report.table(
        ("what", "GB/s"),
        [
            *((f"SHA-256, {threads} thread(s)", spread(values)) for threads, values in sha.items()),
            *(
                (f"write new files, {THREADS} threads, {how}", spread(values))
                for how, values in writes.items()
            ),
        ],
    )


def _merge_times(replayer: Replayer, store: BlobStore, job: MergeJob, repeat: int) -> tuple[list[float], int]:
    """Wall times of a merge that writes its result anew each time, after one that warms up; input bytes."""
    results = [replayer.merge(job)]
    times = seconds(
        lambda: results.append(replayer.merge(job)),
        repeat=repeat,
        before=lambda: made.forget(store, results[-1]),
    )
    made.forget(store, results[-1])
    return times, results[-1].input_bytes


def _sha_rates(repeat: int) -> dict[int, list[float]]:
    data = os.urandom(8 << 20)
    found = {}
    for threads in (1, THREADS):
        with ThreadPoolExecutor(threads) as pool:

            def work(pool: ThreadPoolExecutor = pool, threads: int = threads) -> None:
                list(pool.map(lambda _: [hashlib.sha256(data).digest() for _ in range(16)], range(threads)))

            found[threads] = rates(16 * threads * len(data) / 1e9, seconds(work, repeat=repeat))
    return found


def _write_rates(folder: Path, layout: Layout, repeat: int) -> dict[str, list[float]]:
    data = os.urandom(8 << 20)
    count = 2 * len(layout.shards)

    def write(path: Path, sync: bool) -> None:
        with path.open("wb", buffering=0) as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())

    found = {}
    for how, sync in (("not synced", False), ("each synced", True)):

        def work(sync: bool = sync) -> None:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda i: write(folder / str(i), sync), range(count)))

        def fresh() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

        found[how] = rates(count * len(data) / 1e9, seconds(work, repeat=repeat, before=fresh))
    shutil.rmtree(folder)
    return found


# -- (c) memory -------------------------------------------------------------------------------------------


def _memory(report: Report, settings: Settings, root: Path) -> None:
    sizes = (64, 128) if settings.quick else (64, 256, 1024)
    report.section(
        "Memory of the worker",
        "Largest anonymous memory (RssAnon) seen in a merge, asked every 5 ms; a new worker each. The "
        "contributions share their bytes on disk, which changes nothing for the worker. Goal: 600 MB.",
    )
    rows = []
    for shard_mib in (8, 32):
        for mib in sizes:
            store = BlobStore.open(root / f"{mib}-{shard_mib}")
            layout = made.layout(mib << 20, shard_mib << 20)
            state = made.put_state(store, layout, momentum=True)
            delta = made.put_artifact(store, layout, "delta", 1)
            for count in (2, 8, 64):
                with Replayer(store.root, threads=THREADS) as replayer:
                    replayer.start()
                    pid = replayer.pid
                    assert pid is not None
                    with peaks(partial(dict[str, int], worker=pid), every_s=0.005) as most:
                        idle = most["worker"]
                        replayer.merge(made.job(store, layout, state, [delta] * count, durable=False))
                rows.append((mib, shard_mib, count, f"{idle / 1e6:.0f}", f"{most['worker'] / 1e6:.0f}"))
            shutil.rmtree(store.root)
    report.table(("model MiB", "shard MiB", "contributions", "idle MB", "most MB"), rows)


# -- peers ------------------------------------------------------------------------------------------------


def _peers(report: Report) -> None:
    report.section(
        "Peers",
        "Measured before on a 2-core machine over loopback: stock FedAvg, two nodes of 1 GiB of float32. "
        "Theirs are whole rounds with transport; ours above are merges only.",
    )
    report.table(
        ("", "Flower 1.41", "NVFlare 2.9"),
        [
            ("moved bytes per second, all nodes, both ways", "41 MB/s", "94 MB/s (121 with disk offload)"),
            ("peak memory, server side", "8.6 GB + 1.8 GB", "7.9 GB"),
            ("floor per round", "6.9 s", "3 s"),
        ],
    )
