"""A release on its way: what proposing, signing, publishing and fetching take, and how much memory.

No goal was set for the times. No process is to hold a copy of the weights in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar, Final

from tests.file_server import served
from tests.release.support import HOLDERS, World, now

from benchmarks.report import Report, Settings, seconds, spread
from tapestry.protocol.layout import Tensor
from tapestry.release import checking, holder, published

ROWS: Final = 65_536
QUICK_ROWS: Final = 2_048
COLUMNS: Final = 1_024
MIB: Final = 1 << 20
NOT_SHOWN: Final = (
    "All on one machine: no network but loopback, to a web server written in Python.",
    "The ledger has some thirty entries; what verifying a long one takes is in `verify`.",
    "What `propose` writes is fsynced; what a fetch writes is, too, at its end.",
)
FETCH: Final = """
import json, sys, time
from pathlib import Path
from tapestry.release import client
def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
source, root, out = sys.argv[1:]
before, begun = most(), time.monotonic()
client.fetch(source, Path(out), root=Path(root).read_bytes(), trust=Path(out + "-trust"))
print(json.dumps({"seconds": time.monotonic() - begun, "before": before, "most": most()}))
"""


class Large(World):
    shard_bytes: ClassVar[int] = 8 << 20
    tensors: ClassVar[tuple[Tensor, ...]] = (Tensor(name="w", shape=(ROWS, COLUMNS)),)


class Small(World):
    shard_bytes: ClassVar[int] = 1 << 20
    tensors: ClassVar[tuple[Tensor, ...]] = (Tensor(name="w", shape=(QUICK_ROWS, COLUMNS)),)


def fetched(source: str, root: Path, out: Path) -> dict[str, float]:
    """In a process of its own: seconds, and kilobytes of memory before and at most."""
    asked = [sys.executable, "-P", "-c", FETCH, source, str(root), str(out)]
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(settings: Settings) -> Report:
    report = Report(what="releases", title="Releases", not_shown=NOT_SHOWN)
    kind, repeat = (Small, 1) if settings.quick else (Large, settings.repeat or 3)
    rows = QUICK_ROWS if settings.quick else ROWS
    size = rows * COLUMNS * 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = kind(folder / "core")
        with world.core:
            plan = world.plan()
            world.accepted(state=plan.initial_state)
            seen, drafts = world.view(), []
            times = {"propose": seconds(lambda: drafts.append(world.draft()), repeat=1)}
            made = drafts[0]
            times["sign: check the draft"] = seconds(
                lambda: checking.check(made.folder, seen, now()), repeat=repeat
            )
            for each in HOLDERS[:2]:
                holder.write(made, world.signed(made, each))
            times["publish"] = seconds(lambda: world.publish(made), repeat=1)
        root = world.repository / published.METADATA / "1.root.json"
        memory = []
        with served(world.repository) as url:
            for what, source in (("fetch from a folder", str(world.repository)), ("fetch over HTTP", url)):
                got = [fetched(source, root, folder / f"{what}-{number}") for number in range(repeat)]
                times[what] = [each["seconds"] for each in got]
                memory.append(
                    (what, *(f"{max(e[m] for e in got) / 1024:.0f} MiB" for m in ("before", "most")))
                )
    report.section("Times", f"Weights of {size / MIB:.0f} MiB in shards of {kind.shard_bytes // MIB} MiB.")
    report.table(
        ("what", "seconds", "GB/s"),
        [(what, spread(found, 2), f"{size / 1e9 / min(found):.2f}") for what, found in times.items()],
    )
    report.section("Memory", "Largest resident memory of a process that fetches and does nothing else.")
    report.table(("what", "before", "largest"), memory)
    return report
