"""Moving updates: every node hands in a delta over HTTPS, all at once, and fetches the others'.

A real core process, and for each node a process with its gate's and its agent's own code. A byte counts when
it is on disk at the other end, hashed at both ends and synced; what a node fetches is synced here although
a node leaves that to the system. Screening and merge lie between the two ways and are timed apart.

Beside it, in the same run, on the same bytes and with as many streams: HTTP to disk and nothing else
(`plain_http`), without and with TLS; and SHA-256 of the bytes by one core, which is as fast as anything can
be that hashes them one after the other.

Peers on a like machine at another time (stock FedAvg, two nodes of 1 GiB, whole rounds): 41 MB/s (Flower
1.41), 94 MB/s and, with disk offload, 121 MB/s (NVFlare 2.9); plain HTTP to disk there: 360 to 580 MB/s.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks import made
from benchmarks.machine import children_of, cpu_seconds, hash_files, peaks, say, scratch
from benchmarks.puppets import Puppet, Reply, together
from benchmarks.report import Report, Settings, rates, seconds, spread
from tapestry.cli.demo import tls
from tapestry.core import operator
from tapestry.core import settings as core_settings
from tapestry.host import files, processes
from tapestry.node import setup
from tapestry.node.member import member_init
from tapestry.node.settings import TransferSection
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import Inner, Plan, Rounds
from tapestry.storage.blobs import BlobStore

FULL_MIB, QUICK_MIB = 1024, 64
FULL_REPEAT = 3
GOAL = 0.60
STREAMS = TransferSection().parallel
LIMITS = {"core": 150, "node": 150, "replay worker": 600}
"""MB of anonymous memory."""
PEERS = {"Flower 1.41": "41", "NVFlare 2.9": "94 (121 with disk offload)"}
TAPESTRY, PLAIN, PLAIN_TLS = "Tapestry, HTTPS", "plain HTTP", "plain HTTPS"
START_S = 60.0


@dataclass(frozen=True)
class Size:
    """What moves."""

    mib: int
    nodes: int

    @property
    def up_bytes(self) -> int:
        return self.nodes * self.mib << 20

    @property
    def down_bytes(self) -> int:
        return self.up_bytes * (self.nodes - 1)

    @property
    def disk_bytes(self) -> int:
        """Sources and the base; at the core uploads, new base and momentum; at the nodes the downloads."""
        return 2 * self.up_bytes + (3 * self.mib << 20) + self.down_bytes

    def rate(self, times: Sequence[float], *, up: bool = True, down: bool = True) -> list[float]:
        """MB/s."""
        return rates((self.up_bytes * up + self.down_bytes * down) / 1e6, times)


@dataclass
class Measured:
    """Of one way to move the bytes, a value a repetition; seconds of wall time by phase."""

    times: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Processor seconds by phase and kind of process."""
    memory: dict[str, int] = field(default_factory=dict)

    def sums(self, *phases: str) -> list[float]:
        """A repetition's seconds in these phases."""
        return [sum(times) for times in zip(*(self.times[phase] for phase in phases), strict=True)]

    def note(self, phase: str, wall_s: float, cpu: Mapping[str, float]) -> None:
        self.times.setdefault(phase, []).append(wall_s)
        for role, spent in cpu.items():
            self.cpu.setdefault(phase, {}).setdefault(role, []).append(spent)

    def grew(self, seen: Mapping[str, int]) -> None:
        """Memory by process, e.g. `node 1`; the largest of a kind is kept."""
        for name, size in seen.items():
            role = name.rstrip("0123456789 ")
            self.memory[role] = max(self.memory.get(role, 0), size)


@dataclass(frozen=True)
class Source:
    """The bytes: a blob folder with a delta for each node, and one with what the run starts from."""

    deltas: BlobStore
    digests: tuple[str, ...]
    seed: Path
    plan: Plan
    certificate: tls.TlsFiles

    def shards(self, node: int) -> list[Path]:
        manifest = Artifact.from_bytes(self.deltas.read(self.digests[node]))
        return [self.deltas.path(blob.sha256) for blob in manifest.shards]


def measure(settings: Settings) -> Report:
    size = Size(mib=settings.mib or (QUICK_MIB if settings.quick else FULL_MIB), nodes=settings.nodes)
    repeat = settings.repeat or (1 if settings.quick else FULL_REPEAT)
    if size.nodes < 2:
        sys.exit("a transfer needs two nodes")
    found = {name: Measured() for name in (TAPESTRY, PLAIN, PLAIN_TLS)}
    began = time.perf_counter()
    with scratch(needs_bytes=size.disk_bytes) as root:
        source = _make(root, size)
        laid = time.perf_counter() - began
        sha = seconds(lambda: hash_files(source.shards(0)), repeat=repeat)
        for number in range(repeat):
            say(f"transfer: repetition {number + 1} of {repeat}")
            names = list(found)
            for name in names[number % 3 :] + names[: number % 3]:
                folder = root / "go"
                folder.mkdir()
                if name == TAPESTRY:
                    _tapestry(folder, size, source, found[name])
                else:
                    _plain(folder, size, source, found[name], encrypted=name == PLAIN_TLS)
                shutil.rmtree(folder)
    _foretell(size, repeat, time.perf_counter() - began, laid, found)
    return _report(size, found, rates(size.mib * 1.048576, sha))


def _foretell(size: Size, repeat: int, whole_s: float, laid_s: float, found: dict[str, Measured]) -> None:
    """How long the full size takes, from what grows with the size here and what does not."""
    grows = laid_s + sum(sum(times) for one in found.values() for times in one.times.values())
    full = Size(mib=FULL_MIB, nodes=size.nodes)
    minutes = (grows * FULL_MIB / size.mib + whole_s - grows) * FULL_REPEAT / repeat / 60
    say(
        f"transfer: {size.mib} MiB took {whole_s:.0f} s; at this pace {FULL_MIB} MiB with {size.nodes} nodes "
        f"and {FULL_REPEAT} repetitions take {minutes:.0f} minutes and {full.disk_bytes / 1e9:.0f} GB of disk"
    )


def _make(root: Path, size: Size) -> Source:
    say(f"transfer: making {size.nodes} deltas and a base of {size.mib} MiB each")
    seed, deltas = BlobStore.open(root / "seed"), BlobStore.open(root / "deltas")
    layout = made.layout(size.mib << 20)
    state = made.put_state(seed, layout, momentum=False)
    digests = tuple(made.put_artifact(deltas, layout, "delta", node) for node in range(size.nodes))
    plan = Plan(
        run=made.RUN,
        model=made.model(layout).digest,
        layout=layout.digest,
        initial_state=state,
        parameters=layout.elements,
        rounds=Rounds(total=2, min_nodes=size.nodes, quorum=size.nodes),
        inner=Inner(steps=10),
    )
    return Source(deltas, digests, root / "seed", plan, tls.make(root / "tls"))


# -- Tapestry ---------------------------------------------------------------------------------------------


def _tapestry(root: Path, size: Size, source: Source, into: Measured) -> None:
    """One repetition, with a core and nodes of its own."""
    with _core(root, source) as (core, url), ExitStack() as stack:
        nodes = [stack.enter_context(_node(root, url, source, i)) for i in range(size.nodes)]
        for word in ("enrol", "open"):
            together(nodes, word)
        roles = {"core": core.pid, **{f"node {i}": node.pid for i, node in enumerate(nodes)}}

        def watched() -> dict[str, int]:
            return roles | {f"replay worker {i}": pid for i, pid in enumerate(children_of(core.pid))}

        with peaks(watched) as memory:
            for word in ("gate", "upload", "merged", "download"):
                wall_s, replies, cpu = _phase(nodes, word, roles)
                into.note(word, wall_s, cpu)
        into.note("of it sync", max(reply["sync_s"] for reply in replies), {})
        into.grew(memory)
        assert all(reply["deltas"] == size.nodes for reply in replies)


@contextmanager
def _core(root: Path, source: Source) -> Iterator[tuple[processes.Child, str]]:
    """`tapestry core serve` with the run started; its process and address."""
    home = root / "core"
    certificate = {"certificate": str(source.certificate.certificate), "key": str(source.certificate.key)}
    operator.init(home, core_settings.make(port=0, tls=certificate), title="Benchmark")
    operator.plan(home, source.plan, source.seed)
    operator.start(home, made.RUN)
    command = [sys.executable, "-P", "-m", "tapestry.cli.main", "core", "serve", str(home)]
    core = processes.spawn("core", command, log_path=root / "core.log")
    try:
        url = files.wait_for(lambda: operator.serving_url(home), timeout_s=START_S)
        if not url:
            raise TimeoutError(f"the core did not begin to listen: {(root / 'core.log').read_text()[-2000:]}")
        yield core, url
    finally:
        processes.kill_tree(core)


def _node(root: Path, url: str, source: Source, number: int) -> Puppet:
    name = f"n{number}"
    member = root / f"member-{name}"
    member_init(member, name)
    home = setup.init(root / name, member, name, root, threads=1)
    token = operator.invite(root / "core", name)
    setup.join(home.root, url, token, source.certificate.authority, member_dir=member)
    request = {
        "home": str(home.root),
        "source": str(source.deltas.root),
        "delta": source.digests[number],
    }
    return Puppet(name, "benchmarks.transfer_node", request, root / f"{name}.log")


# -- plain HTTP -------------------------------------------------------------------------------------------


def _plain(root: Path, size: Size, source: Source, into: Measured, *, encrypted: bool) -> None:
    """One repetition of the same transfer by server and clients that do nothing else."""
    files_of = [source.shards(node) for node in range(size.nodes)]
    given = source.certificate
    served = {
        "side": "server",
        "root": str(root / "server"),
        "tls": [str(given.certificate), str(given.key)] if encrypted else None,
    }
    (root / "server").mkdir()
    with (
        Puppet("server", "benchmarks.plain_http", served, root / "server.log") as server,
        ExitStack() as stack,
    ):
        clients = []
        for i, own in enumerate(files_of):
            others = [path.name for j, paths in enumerate(files_of) if j != i for path in paths]
            request: dict[str, object] = {
                "side": "client",
                "port": server.ask("port")["port"],
                "ca": str(given.authority) if encrypted else None,
                "root": str(root / f"client{i}"),
                "own": [str(path) for path in own],
                "others": others,
                "streams": STREAMS,
            }
            client = Puppet("client", "benchmarks.plain_http", request, root / f"client{i}.log")
            clients.append(stack.enter_context(client))
        together(clients, "ready")
        roles = {"server": server.pid, **{f"client {i}": one.pid for i, one in enumerate(clients)}}
        with peaks(lambda: roles) as memory:
            for word in ("upload", "download"):
                wall_s, _, cpu = _phase(clients, word, roles)
                into.note(word, wall_s, cpu)
        into.grew(memory)


def _phase(
    puppets: Sequence[Puppet], word: str, roles: Mapping[str, int]
) -> tuple[float, list[Reply], dict[str, float]]:
    """All do the same: wall seconds, answers, processor seconds by kind of process."""
    before = {name: cpu_seconds(pid) for name, pid in roles.items()}
    wall_s, replies = together(puppets, word)
    spent: dict[str, float] = {}
    for name, pid in roles.items():
        role = name.rstrip("0123456789 ")
        spent[role] = spent.get(role, 0.0) + cpu_seconds(pid) - before[name]
    return wall_s, replies, spent


# -- report -----------------------------------------------------------------------------------------------


def _report(size: Size, found: dict[str, Measured], sha: list[float]) -> Report:
    report = Report(
        what="transfer" if size.nodes == 2 else f"transfer-{size.nodes}-nodes",
        title=f"Moving updates: {size.nodes} nodes, {size.mib} MiB each, to the core and to each other",
        not_shown=[
            "Loopback has no latency, no loss and no limit; all processes share cores and one disk.",
            "A node's process here has the code of its gate and of its agent, not their waiting loops.",
            "What is downloaded lies in the server's page cache, with Tapestry and with plain HTTP alike.",
            "The core hashed the bytes when it took them in, and does not again when it gives them out; "
            "after a restart it does, once.",
            "Screening begins with the first receipt, maybe while another node still uploads.",
            "The peers' figures are whole rounds, measured on a like machine at another time.",
        ],
    )
    _rates_table(report, size, found, sha)
    _phases_table(report, found)
    _memory_table(report, found)
    return report


def _rates_table(report: Report, size: Size, found: dict[str, Measured], sha: list[float]) -> None:
    report.section(
        "Moved bytes",
        f"MB/s of all nodes together, on disk and synced at the receiver; {STREAMS} streams a node. Up: "
        f"{size.up_bytes / 1e6:.0f} MB; down: {size.down_bytes / 1e6:.0f} MB. The ratio is of medians, both "
        f"ways. Goal: {GOAL:.2f} of plain HTTP.",
    )
    ours = found[TAPESTRY]
    plain = median(size.rate(found[PLAIN].sums("upload", "download")))
    ways = [
        (f"{TAPESTRY}, hashed at both ends", ours, ("gate", "upload")),
        (f"{TAPESTRY}, without the sender's own hashing", ours, ("upload",)),
        (PLAIN, found[PLAIN], ("upload",)),
        (PLAIN_TLS, found[PLAIN_TLS], ("upload",)),
    ]
    rows = []
    for name, one, up in ways:
        both = size.rate(one.sums(*up, "download"))
        rows.append(
            [
                name,
                spread(size.rate(one.sums(*up), down=False), 0),
                spread(size.rate(one.sums("download"), up=False), 0),
                spread(both, 0),
                f"{median(both) / plain:.2f}",
            ]
        )
    rows.append(
        ["limit: SHA-256 of the bytes, one core", "", "", spread(sha, 0), f"{median(sha) / plain:.2f}"]
    )
    rows += [[peer, "", "", rate, ""] for peer, rate in PEERS.items()]
    report.table(["", "up", "down", "both", "to plain HTTP"], rows)


def _phases_table(report: Report, found: dict[str, Measured]) -> None:
    report.section(
        "Where the time goes",
        "Seconds of wall time until the last node is done, and processor seconds of the core or server and "
        "of all nodes or clients together.",
    )
    words = {
        "gate": "gate: check, hash, link, sync the own delta",
        "upload": "upload, until the core's receipt",
        "merged": "screening and merge (not in the figures above)",
        "download": "download, until verified and synced",
        "of it sync": "of it the sync",
    }
    rows = []
    for name, one in found.items():
        for phase, times in one.times.items():
            label = words[phase] if name == TAPESTRY else phase
            cpu = one.cpu.get(phase, {})
            mine, theirs = (
                next((median(cpu[role]) for role in roles if role in cpu), None)
                for roles in (("core", "server"), ("node", "client"))
            )
            shown = ["" if value is None else f"{value:.2f}" for value in (mine, theirs)]
            rows.append([name, label, spread(times), *shown])
    report.table(["", "phase", "seconds", "core or server", "nodes or clients"], rows)


def _memory_table(report: Report, found: dict[str, Measured]) -> None:
    report.section("Anonymous memory", "Largest RssAnon of any process of a kind, asked every 10 ms. MB.")
    rows = [
        [name, role, f"{most / 1e6:.0f}", str(LIMITS.get(role, ""))]
        for name, one in found.items()
        for role, most in sorted(one.memory.items())
    ]
    report.table(["", "process", "most", "goal, at most"], rows)
