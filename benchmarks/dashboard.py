"""Many who look at a run of many nodes: what a page takes, and what looking costs the core.

Members are played by the protocol alone: each enrols, hands in a delta of a few numbers, repeats no merge and
trains nothing. History comes first (`dashboard_history`), then rounds with nobody looking and with viewers,
by turns; each viewer reads pages over HTTP one after the other, and has a live stream open. The core's
processor time is counted with its replay worker's.

    python -m benchmarks.dashboard --members 50 --viewers 50 --history 1000 --rounds 20
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.core.support import CoreUnderTest, Member, make_plan
from tests.web.browser import NoBrowserError

from benchmarks import dashboard_history
from benchmarks.dashboard_paint import Painted, painted
from benchmarks.report import RESULTS, Report, spread

PAGES = (
    "/en/",
    "/en/runs/run",
    "/en/members",
    "/en/members/m00",
    "/en/data",
    "/en/runs/run/loss.json",
    "/fr/runs/run",
)
SEEN = (
    *("/en/", "/en/runs/run", "/en/members", "/en/members/m00", "/en/data", "/en/decisions", "/en/ledger"),
    *("/en/releases", "/fr/", "/fr/runs/run"),
)
"""Pages that a browser opens."""
PAUSE_S = 5.0
"""Seconds between the pages of a viewer."""
NOT_SHOWN = (
    "Networks: all is on one machine, and viewers, dashboard, core and members share its processors.",
    "Members that train: these hand in a delta of a few numbers.",
    "What a browser takes to draw while others look: first paint is of one viewer.",
)


class Federation:
    """A core and members that play rounds."""

    def __init__(self, root: Path, members: int, rounds: int) -> None:
        self.core = CoreUnderTest(root / "core").start()
        self.plan = make_plan(
            root / "blobs", total=rounds, min_nodes=members, quorum=members, deadline_s=3600.0
        )
        names = [f"m{i:02}" for i in range(members)]
        self.members = self.core.running(self.plan, root / "blobs", *names)
        self.pool = ThreadPoolExecutor(members)
        self.delta = self.members[0].send_delta(0.001)
        for member in self.members[1:]:
            member.send_delta(0.001)
        self.merges = 0

    def have(self, rounds: int) -> None:
        """So many rounds behind it."""
        self.core.stop()
        dashboard_history.write(self.core, self.plan, self.delta, self.members, rounds)
        self.merges = rounds
        self.core.start()

    def play(self) -> None:
        """One round."""
        lead = self.members[0]
        view = lead.wait(lambda v: v.head.merges == self.merges and v.current is not None)
        at = view.current
        assert at is not None

        def hand_in(member: Member) -> None:
            said = member.contribution(
                self.plan, self.delta, round=at.round, state=at.state, train_ms=900, bytes=4096
            )
            answer = member.contribute(said)
            assert answer.status_code == 200, answer.text
            answer = member.score(
                self.plan, 8.0 / (self.merges + 1), merges=view.head.merges, state=view.head.state
            )
            assert answer.status_code == 200, answer.text

        list(self.pool.map(hand_in, self.members))
        self.merges += 1
        lead.wait(lambda v: v.head.merges == self.merges)

    def cpu_s(self) -> float:
        """Of the core's process and what it has started."""
        assert self.core.process is not None and self.core.process.pid is not None
        main = psutil.Process(self.core.process.pid)
        return sum(
            sum(each.cpu_times()[:2]) for each in (main, *main.children(recursive=True)) if each.is_running()
        )

    def close(self) -> None:
        self.pool.shutdown()
        self.core.close()


class Viewer(threading.Thread):
    """A browser: reads pages, and watches the run."""

    def __init__(self, url: str, number: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._number, self._stop_event = url, number, stop
        self.took: list[tuple[str, float, int]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False) as http:
            at = self._number
            while not self._stop_event.wait(PAUSE_S * (0.5 + (self._number % 10) / 10)):
                page = PAGES[at % len(PAGES)]
                at += 1
                began = time.perf_counter()
                with http.stream("GET", page) as answer:
                    size = sum(map(len, answer.iter_raw()))
                self.took.append((page, time.perf_counter() - began, size))
                if answer.status_code != 200:
                    self.failures.append(f"{page}: {answer.status_code}")

    def _watch(self) -> None:
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.Client(timeout=60, trust_env=False) as http,
            http.stream("GET", f"{self._url}/en/runs/run/live") as answer,
        ):
            for _ in answer.iter_raw():
                if self._stop_event.is_set():
                    return


@contextlib.contextmanager
def dashboard(core: str, folder: Path, root: Path) -> Iterator[str]:
    """A dashboard in a process of its own, as a member of this consortium sees it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboard_child", core, str(folder), str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        yield json.loads(child.stdout.readline())["url"]
    finally:
        child.terminate()
        child.wait(20)


def measured(federation: Federation, rounds: int, pause_s: float) -> tuple[float, float]:
    """Core's processor seconds, and seconds by the clock, of each round and the pause after it."""
    before, began = federation.cpu_s(), time.perf_counter()
    for _ in range(rounds):
        federation.play()
        time.sleep(pause_s)
    return (federation.cpu_s() - before) / rounds, (time.perf_counter() - began) / rounds


def watched(url: str, viewers: int, work: Callable[[], Any]) -> tuple[Any, list[Viewer]]:
    stop = threading.Event()
    looking = [Viewer(url, number, stop) for number in range(viewers)]
    for each in looking:
        each.start()
    time.sleep(2)
    found = work()
    stop.set()
    for each in looking:
        each.join(20)
    return found, looking


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--history", type=int, default=1000, help="rounds before anything is measured")
    parser.add_argument("--rounds", type=int, default=20, help="of each of the turns")
    parser.add_argument("--turns", type=int, default=3, help="without and with viewers, so often")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds of each round that nobody sends in")
    parser.add_argument("--visits", type=int, default=7, help="of a browser to each page, for first paint")
    parser.add_argument("--note", default="", help="a remark for the report")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report")
    given = parser.parse_args()
    total = given.history + 2 * given.turns * given.rounds + 2
    with tempfile.TemporaryDirectory(prefix="tapestry-dashboard-") as name:
        root = Path(name)
        federation = Federation(root, given.members, total)
        try:
            report = bench(federation, root, given)
        finally:
            federation.close()
    if given.note:
        report.note(given.note)
    sys.stdout.write(report.text())
    report.write(given.out)


def bench(federation: Federation, root: Path, given: argparse.Namespace) -> Report:
    federation.have(given.history)
    sys.stderr.write(f"{given.history} rounds of history\n")
    federation.play()
    what = f"dashboard-{given.pause:g}s-apart" if given.pause else "dashboard"
    report = Report(what=what, title="Dashboard: what looking costs", not_shown=NOT_SHOWN)
    key = federation.core.root / "viewer.pem"
    key.write_bytes(federation.members[0].key.to_pem())
    alone, seen = [], []
    viewers: list[Viewer] = []
    with dashboard(federation.core.url, root / "web", federation.core.root) as url:
        began = time.perf_counter()
        up_to_date(url, federation.merges)
        reading_s = time.perf_counter() - began
        drawn = paints(url, given.visits)

    def turn() -> tuple[float, float]:
        return measured(federation, given.rounds, given.pause)

    for _ in range(given.turns):
        alone.append(turn())
        with dashboard(federation.core.url, root / "web", federation.core.root) as url:
            up_to_date(url, federation.merges)
            found, looking = watched(url, given.viewers, turn)
            seen.append(found)
            viewers += looking
    entries = federation.members[0].ask("GET", "/v1/events?limit=1").json()["head"]
    report.paragraph(
        f"{given.members} members, {given.history} rounds before ({entries:,} entries). {given.viewers} "
        f"viewers, each with a live stream, and a page every {PAUSE_S * 0.5:.1f} to {PAUSE_S * 1.4:.1f} s. "
        f"{given.turns} turns of {given.rounds} rounds, {given.pause:g} s apart, without and with them."
    )
    told(report, alone, seen, viewers)
    report.paragraph(f"From the start of a dashboard to pages of the whole ledger: {reading_s:.0f} s.")
    told_of_paint(report, drawn, given.visits)
    return report


def paints(url: str, visits: int) -> list[Painted] | str:
    """Of every page, or why there is no browser."""
    try:
        return painted(url, SEEN, visits)
    except NoBrowserError as e:
        return str(e)


def up_to_date(url: str, merges: int) -> None:
    """Wait until a dashboard has read the whole ledger."""
    with httpx.Client(timeout=60, trust_env=False) as http:
        while True:
            answer = http.get(f"{url}/en/runs/run/rounds.json")
            if answer.status_code == 200 and answer.json()["x"][-1] == merges:
                return
            time.sleep(0.25)


def told(
    report: Report,
    alone: list[tuple[float, float]],
    seen: list[tuple[float, float]],
    viewers: list[Viewer],
) -> None:
    """What the viewers waited for, and what they cost the core."""
    without = statistics.median(cpu for cpu, _ in alone)
    share = 100 * (statistics.median(cpu for cpu, _ in seen) / without - 1)
    report.section("The core", f"Viewers cost it {share:+.1f} % of a round's processor time (goal: +5 %).")
    report.table(
        ("", "nobody looks", "viewers look"),
        [
            ("processor seconds a round", spread([c for c, _ in alone], 3), spread([c for c, _ in seen], 3)),
            ("seconds a round", spread([s for _, s in alone]), spread([s for _, s in seen])),
        ],
    )
    took = [each for viewer in viewers for each in viewer.took]
    failures = [each for viewer in viewers for each in viewer.failures]
    rows = []
    for page in (*PAGES, "all"):
        found = [each for each in took if page in (each[0], "all")]
        times = [each[1] * 1000 for each in found]
        middle, slow = (f"{percentile(times, part):.0f} ms" for part in (0.5, 0.95))
        rows.append((page, len(found), middle, slow, f"{max((b for _, _, b in found), default=0):,}"))
    report.section("Pages while all look", f"Goal: 200 ms at the 95th percentile. Failures: {len(failures)}.")
    report.table(("page", "asked", "median", "95 %", "bytes on the wire"), rows)


def told_of_paint(report: Report, drawn: list[Painted] | str, visits: int) -> None:
    if isinstance(drawn, str):
        report.section("First paint", f"Not measured, without a browser: {drawn}.")
        return
    slowest, largest = max(each.median for each in drawn), max(each.wire for each in drawn)
    report.section(
        "First paint",
        f"Chromium, one viewer, nothing in its cache, {visits} visits. Slowest page {slowest:.0f} ms (goal "
        f"300), largest {largest / 1000:.0f} kB with all that it loads (goal 150).",
    )
    report.table(
        ("page", "first paint, ms", "first contentful paint, ms", "kB on the wire"),
        [
            (each.page, spread(each.paint, 0), spread(each.content, 0), f"{each.wire / 1000:.1f}")
            for each in drawn
        ],
    )


if __name__ == "__main__":
    main()
