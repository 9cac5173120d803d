"""The search for canaries: its speed, its share of a round, and a run whose traffic and core are searched."""

from __future__ import annotations

import random
import tempfile
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import federation
from benchmarks.federation import Case, Watched
from benchmarks.report import Report, Settings, rates, seconds, spread
from tapestry.node import canaries, leaks, lines
from tapestry.node.home import Home
from tapestry.node.outbox import egress_table
from tapestry.protocol.canonical import sha256
from tapestry.storage.blobs import BlobStore

CANARIES = 10_000
MARKER = "qzjxvkwpbyfhgmcdluno"
WIDER = {"hidden_size": 256, "intermediate_size": 672, "num_hidden_layers": 4}
"""A model of 3 million parameters: updates of 13 MB."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run left, and where canaries of its members are.

    Args:
        planted: canaries in the text of all.
        captured: bytes of both directions, before encryption.
        disk: bytes of the core's folder.
        sent: bytes from the nodes, by node: of the capture.
        declared: of egress log and message log, by node.
        leaked: hits in capture and core.
        at_home: of each node, hits in its own text and cache: the control.
        searched_s: seconds for capture and core, with every node's marker.
    """

    planted: int
    captured: int
    disk: int
    sent: dict[str, int]
    declared: dict[str, int]
    leaked: list[str]
    at_home: dict[str, list[str]]
    searched_s: float
    share: float
    """Seconds that a search of all updates takes, of the seconds in which they were trained."""

    @property
    def beyond(self) -> float:
        """Part of the declared bytes that left and were not declared."""
        return sum(self.sent.values()) / sum(self.declared.values()) - 1


def evidence(case: Case, root: Path, planted: int = CANARIES) -> Evidence:
    """Run it, with so many canaries over all members' text, and search all that left."""
    found: list[Evidence] = []
    each = -(-planted // case.nodes)

    def prepare(home: Path, text: Path) -> None:
        canaries.plant(Home(home), each, text / "train-canaries.jsonl")

    def look(folder: Path) -> None:
        found.append(_look(folder, each * case.nodes))

    federation.run(case, root, Watched(prepare=prepare, look=look))
    return found[0]


def _look(root: Path, planted: int) -> Evidence:
    homes = {home.name: Home(home) for home in sorted((root / "nodes").iterdir())}
    searchers = {}
    for name, home in homes.items():
        said = canaries.load(home)
        assert said is not None
        searchers[name] = leaks.Searcher(said.marker)
    capture, core = root / "capture", root / "core"
    began = time.perf_counter()
    hits = [hit for one in searchers.values() for at in (capture, core) for hit in leaks.search(one, at)]
    searched_s = time.perf_counter() - began
    at_home, gate_s, trained_s = {}, 0.0, 0.0
    for name, home in homes.items():
        own = (root / "texts" / name, home.cache)
        at_home[name] = [hit.where for at in own for hit in leaks.search(searchers[name], at)]
        began = time.perf_counter()
        _shards(home, searchers[name])
        gate_s += time.perf_counter() - began
        trained_s += sum(float(line["trained_s"]) for line in lines.read(home.times))
    return Evidence(
        planted=planted,
        captured=_bytes(capture),
        disk=_bytes(core),
        sent={name: _bytes(capture / name, "*.up") for name in homes},
        declared={name: sum(row["bytes"] for row in egress_table(home)) for name, home in homes.items()},
        leaked=[f"{hit.where}: {hit}" for hit in hits],
        at_home=at_home,
        searched_s=searched_s,
        share=gate_s / trained_s,
    )


def _shards(home: Home, searcher: leaks.Searcher) -> None:
    """Search once more what the gate has searched."""
    store = BlobStore.open(home.blobs)
    for line in lines.read(home.egress_log):
        if line["kind"] == "delta-shard" and store.has(line["sha256"]):
            with store.path(line["sha256"]).open("rb") as file:
                searcher.file(file.fileno())


def _bytes(folder: Path, which: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(which) if path.is_file())


def measure(settings: Settings) -> Report:
    report = Report(
        "leaks",
        "Searching what leaves for canaries",
        (
            "What the weights themselves have memorized: no search of bytes finds that.",
            "Encodings that are not searched (docs/concepts/airlock.md), and a trainer that hides text.",
            "TLS: the capture is of plain HTTP on the loopback, as it is before encryption.",
        ),
    )
    _speed(report, settings)
    _share(report, settings)
    _runs(report, settings)
    return report


def _speed(report: Report, settings: Settings) -> None:
    size, repeat = (4 << 20, 1) if settings.quick else (64 << 20, 5)
    normal = random.Random(1)
    some = array("f", (normal.gauss(0, 1e-3) for _ in range(1 << 18))).tobytes()
    kinds: dict[str, bytes] = {
        "weights, fp32": some * (size // len(some)),
        "random bytes": random.Random(2).randbytes(size),
        "JSON": (b'{"round":12,"loss":2.5,"state":"' + b"0af3" * 16 + b'"}') * (size // 100),
        "zeros": bytes(size),
    }
    searcher = leaks.Searcher(MARKER)
    report.section(
        "Speed",
        f"One thread, {len(canaries.patterns(MARKER))} patterns and the headers of compressed streams, "
        f"{size >> 20} MiB in memory. By the processor's time, which others "
        "on the machine change little. It does not depend on how many canaries were planted.",
    )
    rows = []
    for name, data in kinds.items():
        times = []
        for _ in range(repeat):
            began = time.process_time()
            searcher.data(data)
            times.append(time.process_time() - began)
        rows.append((name, f"{spread(rates(len(data) / 1e6, times), 0)} MB/s"))
    report.table(("what", "searched"), rows)


def _share(report: Report, settings: Settings) -> None:
    size, repeat = (4 << 20, 1) if settings.quick else (64 << 20, 5)
    report.section(
        "Beside what the gate does anyway",
        f"A shard of {size >> 20} MiB of random bytes in the page cache: the gate hashes it and takes it "
        "over, durably; the search is new.",
    )
    with tempfile.TemporaryDirectory(prefix="tapestry-leaks-") as folder:
        data = random.Random(3).randbytes(size)
        path = Path(folder) / "shard"
        path.write_bytes(data)
        store = BlobStore.open(Path(folder) / "blobs")
        sha = sha256(data)
        searcher = leaks.Searcher(MARKER)

        def search() -> None:
            with path.open("rb") as file:
                searcher.file(file.fileno())

        take = seconds(
            lambda: store.adopt(path, sha), repeat=repeat, before=lambda: store.has(sha) and store.delete(sha)
        )
        searched = seconds(search, repeat=repeat)
    rows = [("hash and take over", take), ("search", searched)]
    report.table(("what", "seconds"), [(name, spread(times, 3)) for name, times in rows])


def _runs(report: Report, settings: Settings) -> None:
    report.section(
        "Runs whose traffic and core are searched",
        f"Three members with {CANARIES} canaries in their text, real core, nodes and trainers; every byte "
        "between them is kept, and searched with all that lies in the core's folder afterwards. Declared is "
        "the sum of egress log and message log.",
    )
    rows = []
    cases: dict[str, Case] = {"the demo's model": Case(nodes=3, rounds=3, steps=40, never_scored=False)}
    if not settings.quick:
        cases["3 million parameters"] = Case(nodes=3, rounds=3, steps=10, model=WIDER, never_scored=False)
    for name, case in cases.items():
        with tempfile.TemporaryDirectory(prefix="tapestry-leaks-") as folder:
            rows.append(_row(name, evidence(case, Path(folder) / "run")))
    head = (
        "model",
        "canaries",
        "captured",
        "core's disk",
        "found",
        "control",
        "sent",
        "declared",
        "beyond",
        "search",
    )
    report.table(head, rows)
    report.paragraph(
        "Beyond: start lines and headers of requests, of which there are as many as rounds and pieces take. "
        "Control: nodes whose own text and cache the same search finds canaries in. Search: what looking "
        "through all updates takes, of the time in which they were trained."
    )


def _row(name: str, found: Evidence) -> tuple[object, ...]:
    megabytes: Callable[[int], str] = lambda size: f"{size / 1e6:.2f} MB"  # noqa: E731
    return (
        name,
        found.planted,
        megabytes(found.captured),
        megabytes(found.disk),
        len(found.leaked),
        f"{sum(map(bool, found.at_home.values()))} of {len(found.at_home)}",
        megabytes(sum(found.sent.values())),
        megabytes(sum(found.declared.values())),
        f"{100 * found.beyond:.1f} %",
        f"{100 * found.share:.2f} %",
    )
