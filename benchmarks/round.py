"""What a round costs beside training: four nodes with an 8 MiB update each, real processes, real HTTP.

Training is taken out by laying each node's finished delta ready before the clock starts. The clock runs
from the moment the deltas appear in the spool (gate, signing, upload, screening, merge, every node's
download and its own repetition of the merge) until every node's trainer has its next job. The same run
gives the memory of each process.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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

    def __init__(self, root: Path, layout: Layout, rounds: int, sync: Sync) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.layout = layout
        core = root / "core"
        operator.init(core, core_settings.make(port=port), title="Benchmark")
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
            for pid in _children_of(child.pid):
                most["replay worker"] = max(most["replay worker"], processes.anonymous_bytes(pid))
        return dict(most)

    def cpu(self) -> dict[str, float]:
        """Processor seconds so far by role."""
        spent: dict[str, float] = defaultdict(float)
        for name, child in self.children.items():
            spent[name.split()[0]] += _cpu_seconds(child.pid)
            for pid in _children_of(child.pid):
                spent["replay worker"] += _cpu_seconds(pid)
        return dict(spent)

    def stop(self) -> None:
        for child in self.children.values():
            processes.kill_tree(child)


def _children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """Of one way to bring the next base to the nodes."""

    times: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Processor seconds a round by role."""
    memory: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def measure(settings: Settings) -> Report:
    rounds = 3 if settings.quick else 15
    found = {sync: _run(sync, rounds) for sync in SYNCS}
    return _report(found, {sync: _write_times(WRITTEN[sync], repeat=5) for sync in SYNCS})


def _write_times(payloads: int, *, repeat: int) -> list[float]:
    """Seconds in which two threads write so many payloads to new files, as a round does; nothing synced."""
    folder = Path(tempfile.mkdtemp(prefix=".bench-", dir=Path.cwd()))
    data = memoryview(secrets.token_bytes(PAYLOAD_MIB << 20))
    try:
        with ThreadPoolExecutor(2) as pool:
            return seconds(
                lambda: list(pool.map(lambda _: _write(folder, data), range(payloads))), repeat=repeat
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, data: memoryview) -> None:
    with (folder / secrets.token_hex(8)).open("wb", buffering=0) as file:
        for start in range(0, len(data), 256 << 10):
            file.write(data[start : start + (256 << 10)])


def _run(sync: Sync, rounds: int) -> Measured:
    layout = _layout()
    root = Path(tempfile.mkdtemp(prefix=".bench-", dir=Path.cwd()))
    found = Measured()
    try:
        consortium = _Consortium(root, layout, rounds + 2, sync)
        try:
            jobs = consortium.jobs(1)
            for number in range(1, rounds + 2):
                ready = [
                    _lay_ready(home, job, layout) for home, job in zip(consortium.homes, jobs, strict=True)
                ]
                time.sleep(0.5)
                before = consortium.cpu()
                start = time.perf_counter()
                for folder in ready:
                    folder.rename(folder.with_suffix(""))
                jobs = consortium.jobs(number + 1)
                if number > 1:
                    found.times.append(time.perf_counter() - start)
                    for role, cpu in consortium.cpu().items():
                        found.cpu[role] += (cpu - before.get(role, 0.0)) / rounds
                for role, size in consortium.memory().items():
                    found.memory[role] = max(found.memory[role], size)
        finally:
            consortium.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return found


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
    roles = sorted({role for m in found.values() for role in m.cpu})
    rows = [[role, *(f"{m.cpu.get(role, 0.0):.2f}" for m in found.values())] for role in roles]
    rows.append(["all", *(f"{sum(m.cpu.values()):.2f}" for m in found.values())])
    report.table(["process", *found], rows)
    report.section("Anonymous memory in MB, largest seen of each kind of process")
    limits = {"core": 150, "agent": 150, "replay worker": 600}
    rows = [
        [role, *(f"{m.memory.get(role, 0) / 1e6:.0f}" for m in found.values()), str(limits.get(role, ""))]
        for role in roles
    ]
    report.table(["process", *found, "goal, at most"], rows)
    return report
