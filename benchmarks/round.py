"""What a round costs beside training: four nodes with an 8 MiB update each, real processes, real HTTP.

Training is taken out by laying each node's finished delta ready before the clock starts. The clock runs
from the moment the deltas appear in the spool (gate, signing, upload, screening, merge, every node's
download and its own repetition of the merge) until every node's trainer has its next job. The same run
gives the memory of each process.

With `--database postgresql` or `--blobs s3`: how much longer a round takes on those than on SQLite and a
folder. Blocks of rounds take turns, each with a consortium of its own.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from benchmarks import engines
from benchmarks.engines import Engine, Place, Servers
from benchmarks.machine import children_of, cpu_seconds, say, scratch
from benchmarks.report import Report, Settings, seconds, spread
from tapestry.core import operator
from tapestry.core import settings as core_settings
from tapestry.host import files, processes
from tapestry.node import setup
from tapestry.node.home import Home
from tapestry.node.member import member_init
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob, TrainResult

NODES = 4
PAYLOAD_MIB = 8
Sync = Literal["replay", "fetch"]
SYNCS: dict[Sync, str] = {
    "replay": "core, and every node repeats it",
    "fetch": "core; nodes fetch the merged base",
}
WRITTEN: dict[Sync, int] = {
    "replay": NODES + 2 + NODES * (NODES - 1) + 2 * NODES,
    "fetch": NODES + 2 + NODES,
}
"""Payloads written to disk in a round: uploads, base and momentum at the core; at each node the others'
updates, base and momentum, or the base alone."""
FULL_BLOCKS, FULL_ROUNDS = 4, 5
"""Of each engine, where engines are compared."""
ENGINE_GOAL = 1.10
PEERS = {"Flower 1.41": 6.9, "NVFlare 2.9": 3.0}
"""Floor of a round in seconds, two nodes, on a like machine (stock FedAvg, loopback)."""


def _layout() -> Layout:
    tensors = tuple(Tensor(name=f"t{i:02}", shape=(512, 256)) for i in range(PAYLOAD_MIB * 2))
    return Layout(tensors=tensors)


def _shards(layout: Layout) -> list[bytes]:
    """Random finite values: no two updates alike, none that packs well."""
    made = []
    for shard in layout.shards:
        mask = int.from_bytes(struct.pack("<I", 0x3EFFFFFF) * shard.elements, "little")
        noise = int.from_bytes(secrets.token_bytes(shard.data_bytes), "little") & mask
        made.append(shard.header + noise.to_bytes(shard.data_bytes, "little"))
    return made


def _artifact(kind: ArtifactKind, layout: Layout, data: list[bytes]) -> Artifact:
    blobs = tuple(Blob(sha256=canonical.sha256(d), bytes=len(d)) for d in data)
    return Artifact(kind=kind, layout=layout.digest, shards=blobs)


def _plan(blobs: Path, layout: Layout, rounds: int, sync: Sync) -> Plan:
    store = BlobStore.open(blobs)
    data = _shards(layout)
    base = _artifact("base", layout, data)
    model = Model(layout=layout.digest, files=())
    state = State(run="bench", model=model.digest, merges=0, base=base.digest, outer=None)
    for blob in (*data, base.to_bytes(), layout.to_bytes(), model.to_bytes(), state.to_bytes()):
        store.put(blob, durable=False)
    return Plan(
        run="bench",
        model=model.digest,
        layout=layout.digest,
        initial_state=state.digest,
        parameters=layout.elements,
        rounds=Rounds(total=rounds, min_nodes=NODES, quorum=NODES),
        inner=Inner(steps=10),
        merge=Merge(),
        sync=sync,
    )


def _lay_ready(home: Home, job: TrainJob, layout: Layout) -> Path:
    """A finished training folder under its temporary name, on disk."""
    data = _shards(layout)
    delta = _artifact("delta", layout, data)
    folder = home.outputs / f"{job.run}.{job.round}.tmp"
    folder.mkdir(parents=True)
    for blob, described in zip(data, delta.shards, strict=True):
        (folder / described.sha256).write_bytes(blob)
    (folder / "delta.json").write_bytes(delta.to_bytes())
    result = TrainResult(
        run=job.run,
        plan=job.plan.digest,
        round=job.round,
        merges=job.merges,
        state=job.state,
        delta=delta.digest,
        tokens=1000,
        steps=10,
        data_manifest="0" * 64,
        loss=1.0,
        score=None,
        environment={},
        train_s=0.0,
        evaluate_s=0.0,
    )
    (folder / "result.json").write_bytes(result.to_bytes())
    files.fsync_tree(folder)
    return folder


class _Consortium:
    """A core and nodes without trainers, as processes."""

    def __init__(self, root: Path, layout: Layout, rounds: int, sync: Sync, place: Place) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.layout = layout
        self.place = place
        core = root / "core"
        operator.init(core, core_settings.make(port=port, **place.settings), title="Benchmark")
        operator.plan(core, _plan(root / "seed", layout, rounds, sync), root / "seed")
        operator.start(core, "bench")
        self.children: dict[str, processes.Child] = {}
        self._spawn("core", root, "tapestry.cli.main", "core", "serve", str(core))
        files.wait_for(lambda: operator.serving_url(core), timeout_s=30)
        self.homes = []
        for i in range(NODES):
            name = f"n{i}"
            member_init(root / f"member-{name}", name)
            home = setup.init(root / name, root / f"member-{name}", name, root, threads=1)
            url = f"http://127.0.0.1:{port}"
            setup.join(home.root, url, operator.invite(core, name), member_dir=root / f"member-{name}")
            for role in ("gate", "agent"):
                self._spawn(f"{role} {name}", root, f"tapestry.node.{role}", "--home", str(home.root))
            self.homes.append(home)

    def _spawn(self, name: str, root: Path, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", *arguments]
        self.children[name] = processes.spawn(name.split()[0], command, log_path=root / f"{name}.log")

    def jobs(self, round: int) -> list[TrainJob]:
        """Every node's job of a round, once all have it."""

        def all_there() -> list[TrainJob] | None:
            try:
                jobs = [TrainJob.from_bytes(home.job.read_bytes()) for home in self.homes]
            except FileNotFoundError:
                return None
            return jobs if all(job.round == round for job in jobs) else None

        found = files.wait_for(all_there, poll_s=0.002, timeout_s=60)
        if not found:
            raise TimeoutError(f"round {round} did not open")
        return list(found)

    def memory(self) -> dict[str, int]:
        """Largest anonymous memory by role, bytes."""
        most: dict[str, int] = defaultdict(int)
        for name, child in self.children.items():
            role = name.split()[0]
            most[role] = max(most[role], processes.anonymous_bytes(child.pid))
            for pid in children_of(child.pid):
                most["replay worker"] = max(most["replay worker"], processes.anonymous_bytes(pid))
        return dict(most)

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far by role."""
        spent: dict[str, float] = defaultdict(float)
        for name, child in self.children.items():
            spent[name.split()[0]] += cpu_seconds(child.pid)
            for pid in children_of(child.pid):
                spent["replay worker"] += cpu_seconds(pid)
        for name, pid in self.place.pids.items():
            spent[name] += cpu_seconds(pid)
        return dict(spent)

    def stop(self) -> None:
        for child in self.children.values():
            processes.kill_tree(child)


@dataclass
class Measured:
    """Of one way to bring the next base to the nodes."""

    times: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Processor seconds of all rounds by role."""
    memory: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def cpu_of(self, role: str) -> float:
        """Processor seconds a round."""
        return self.cpu.get(role, 0.0) / len(self.times)


def measure(settings: Settings) -> Report:
    asked = [Engine(database=settings.database)] if settings.database else []
    asked += [Engine(blobs=settings.blobs)] if settings.blobs else []
    with scratch() as root:
        if asked:
            return _measure_engines(root, [engines.PLAIN, *asked], quick=settings.quick)
        rounds = 3 if settings.quick else 15
        found = {}
        for sync in SYNCS:
            found[sync] = Measured()
            _run(root / sync, sync, rounds, Place(), found[sync])
        return _report(found, {sync: _write_times(root, WRITTEN[sync], repeat=5) for sync in SYNCS})


def _write_times(root: Path, payloads: int, *, repeat: int) -> list[float]:
    """Seconds in which two threads write so many payloads to new files, as a round does; nothing synced."""
    folder = root / "written"
    folder.mkdir()
    data = memoryview(secrets.token_bytes(PAYLOAD_MIB << 20))
    with ThreadPoolExecutor(2) as pool:
        times = seconds(
            lambda: list(pool.map(lambda _: _write(folder, data), range(payloads))), repeat=repeat
        )
    shutil.rmtree(folder)
    return times


def _write(folder: Path, data: memoryview) -> None:
    with (folder / secrets.token_hex(8)).open("wb", buffering=0) as file:
        for start in range(0, len(data), 256 << 10):
            file.write(data[start : start + (256 << 10)])


def _run(root: Path, sync: Sync, rounds: int, place: Place, into: Measured) -> None:
    """Rounds of a consortium that is made for them in folder `root`, after one that warms up."""
    layout = _layout()
    root.mkdir(exist_ok=True)
    consortium = _Consortium(root, layout, rounds + 2, sync, place)
    try:
        jobs = consortium.jobs(1)
        for number in range(1, rounds + 2):
            ready = [_lay_ready(home, job, layout) for home, job in zip(consortium.homes, jobs, strict=True)]
            time.sleep(0.5)
            before = consortium.cpu()
            start = time.perf_counter()
            for folder in ready:
                folder.rename(folder.with_suffix(""))
            jobs = consortium.jobs(number + 1)
            if number > 1:
                into.times.append(time.perf_counter() - start)
                for role, cpu in consortium.cpu().items():
                    into.cpu[role] += cpu - before.get(role, 0.0)
            for role, size in consortium.memory().items():
                into.memory[role] = max(into.memory[role], size)
    finally:
        consortium.stop()
    shutil.rmtree(root)


def _measure_engines(root: Path, asked: list[Engine], *, quick: bool) -> Report:
    blocks, rounds = (1, 3) if quick else (FULL_BLOCKS, FULL_ROUNDS)
    found: dict[tuple[Sync, Engine], Measured] = defaultdict(Measured)
    began = time.perf_counter()
    with Servers(root) as servers:
        for sync in SYNCS:
            for block in range(blocks):
                say(f"round: sync = {sync}, block {block + 1} of {blocks}")
                for engine in asked if block % 2 == 0 else asked[::-1]:
                    folder = root / "block"
                    with servers.place(engine, folder / "core") as place:
                        _run(folder, sync, rounds, place, found[sync, engine])
    per_round_s = (time.perf_counter() - began) / (blocks * (rounds + 4))  # a block's start costs about four
    full_min = per_round_s * FULL_BLOCKS * (FULL_ROUNDS + 4) / 60
    say(
        f"round: {FULL_BLOCKS} blocks of {FULL_ROUNDS} rounds on these engines take about {full_min:.0f} "
        "minutes"
    )
    report = _engines_report(found, asked)
    if any(engine.blobs for engine in asked):
        _s3_bound(report, root, repeat=3 if quick else 7)
    return report


def _s3_bound(report: Report, root: Path, *, repeat: int) -> None:
    shard = _layout().shards[0]
    times = engines.s3_seconds(root, NODES + 2, shard.total_bytes, repeat=repeat)
    report.section(
        "Limit of the S3 service",
        f"To put the {NODES + 2} payloads of a round (updates, base, momentum) into moto as a core does "
        f"it, four at a time, with nothing else running, takes {spread(times)} s.",
    )


def _report(found: dict[Sync, Measured], writes: dict[Sync, list[float]]) -> Report:
    report = Report(
        what="round",
        title=f"A round without training: {NODES} nodes, {PAYLOAD_MIB} MiB each",
        not_shown=[
            "Loopback has no latency and no limit; core and all nodes share two cores and one disk.",
            "The first round is left out: workers import torch in it.",
            "The peers' figures were measured with two nodes on a like machine at another time.",
        ],
    )
    report.section("Time from the last delta on disk to the next job at every node")
    rows = [[f"Tapestry, sync = {sync}", spread(m.times), "0.50", SYNCS[sync]] for sync, m in found.items()]
    rows += [[peer, f"{floor:.1f}", "", "the server merges"] for peer, floor in PEERS.items()]
    report.table(["system", "seconds a round", "goal, at most", "who merges"], rows)
    report.section(
        "Limit",
        "Writing as many bytes to new files and nothing else: two threads, not synced, old files kept, as a "
        "round leaves them. On a virtual machine that gets its memory page by page this is slow.",
    )
    rows = [
        [sync, str(WRITTEN[sync] * PAYLOAD_MIB), spread(times), f"{spread(found[sync].times)}"]
        for sync, times in writes.items()
    ]
    report.table(["sync", "MiB written a round", "seconds to write them", "seconds a round"], rows)
    report.section("Processor time of a round in seconds, all processes of a kind together")
    _cpu_table(report, {str(sync): m for sync, m in found.items()})
    _memory_table(report, {str(sync): m for sync, m in found.items()})
    return report


def _cpu_table(report: Report, found: Mapping[str, Measured]) -> None:
    roles = sorted({role for m in found.values() for role in m.cpu})
    rows = [[role, *(f"{m.cpu_of(role):.2f}" for m in found.values())] for role in roles]
    rows.append(["all", *(f"{sum(map(m.cpu_of, roles)):.2f}" for m in found.values())])
    report.table(["process", *found], rows)


def _memory_table(report: Report, found: Mapping[str, Measured]) -> None:
    report.section("Anonymous memory in MB, largest seen of each kind of process")
    limits = {"core": 150, "agent": 150, "replay worker": 600}
    rows = [
        [role, *(f"{m.memory.get(role, 0) / 1e6:.0f}" for m in found.values()), str(limits.get(role, ""))]
        for role in sorted({role for m in found.values() for role in m.memory})
    ]
    report.table(["process", *found, "goal, at most"], rows)


def _engines_report(found: Mapping[tuple[Sync, Engine], Measured], asked: list[Engine]) -> Report:
    report = Report(
        what="round-engines",
        title=f"A round without training on other engines: {NODES} nodes, {PAYLOAD_MIB} MiB each",
        not_shown=[
            "The servers share cores and disk with all else; no network lies between them and the core.",
            "The S3 service is moto's, a simulator in Python that keeps objects in memory: it takes "
            "processor time from everything else and answers more slowly than a real service nearby. What it "
            "adds is a bound, not what a real service adds.",
            "PostgreSQL has its default settings and only this one client.",
            "The first round of each block is left out: workers import torch in it.",
        ],
    )
    report.section(
        "Time from the last delta on disk to the next job at every node",
        "The overhead is the whole of these seconds, since nothing is trained. Blocks of rounds took turns, "
        "each with a new consortium, database and bucket. Goal: at most "
        f"{ENGINE_GOAL:.2f} times SQLite and a folder, of medians.",
    )
    rows = []
    for sync in SYNCS:
        plain = median(found[sync, engines.PLAIN].times)
        for engine in asked:
            times = found[sync, engine].times
            rows.append([sync, str(engine), len(times), spread(times), f"{median(times) / plain:.2f}"])
    report.table(["sync", "database, blobs", "rounds", "seconds a round", "to SQLite, folder"], rows)
    named = {f"{sync}: {engine}": found[sync, engine] for sync in SYNCS for engine in asked}
    report.section(
        "Processor time of a round in seconds, all processes of a kind together",
        "Without the database's own processes; moto is the object store's.",
    )
    _cpu_table(report, named)
    _memory_table(report, named)
    return report
