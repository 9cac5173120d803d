"""Figures of a node for its owner's Prometheus: what its processes do, what was moved, what rounds took.

Read at each scrape from what the processes say of themselves for `tapestry node status`; no text, no loss and
no update is among it. Labels are names of runs and closed lists of words.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from tapestry import __version__
from tapestry.errors import TapestryError
from tapestry.host.processes import pid_alive
from tapestry.node import account, child, keys
from tapestry.node.home import ROLES, Home, read_json
from tapestry.protocol.clock import parse_time
from tapestry.protocol.messages import KeyCertificate

MAX_RUNS: Final = 32
"""Runs that have series of their own: those that go on, then those whose round was timed last."""
TIMES_S: Final = 10.0
"""What rounds took is read again after so long."""
PARTS: Final = ("trained", "encoded", "evaluated", "waited", "uploaded", "downloaded", "replayed")
MOVED: Final = {"sent_bytes": "sent", "received_bytes": "received"}


class NodeMetrics:
    """Of one agent."""

    def __init__(self, home: Home, status: child.Status) -> None:
        self._status = status
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Standing(home, status))

    def page(self) -> bytes:
        return bytes(generate_latest(self._registry))

    def health(self) -> str | None:
        """An agent that answers is well: that the core is away is no reason to start it again."""
        return None


class _Standing(Collector):
    def __init__(self, home: Home, status: child.Status) -> None:
        self._home = home
        self._status = status
        self._read = -TIMES_S
        self._times: dict[str, dict[str, Any]] = {}

    def collect(self) -> Iterator[Metric]:
        yield _one("tapestry_build_info", "Always 1.", {"version": __version__}, 1)
        yield _one(
            "tapestry_node_trouble", "1 where it cannot go on.", {}, self._status["trouble"] is not None
        )
        yield from self._processes()
        yield from self._traffic()
        yield from self._runs()
        yield from self._rounds()
        yield from self._keys()
        try:
            usage = shutil.disk_usage(self._home.root)
        except OSError:
            return
        yield _one("tapestry_disk_free_bytes", "Where the node's folder lies.", {}, usage.free)
        yield _one("tapestry_disk_bytes", "Of that disk.", {}, usage.total)

    def _processes(self) -> Iterator[Metric]:
        alive = GaugeMetricFamily("tapestry_node_process_alive", "Of the node's processes.", labels=["role"])
        restarts = CounterMetricFamily(
            "tapestry_node_process_restarts", "Since the node started.", labels=["role"]
        )
        children = (read_json(self._home.status("supervisor")) or {}).get("children") or {}
        for role in ROLES:
            said = read_json(self._home.status(role)) or {}
            pid = said.get("pid")
            alive.add_metric([role], isinstance(pid, int) and pid_alive(pid))
            if isinstance(children.get(role), dict):
                restarts.add_metric([role], int(children[role].get("restarts") or 0))
        yield from (alive, restarts)
        gate = read_json(self._home.status("gate")) or {}
        passed = CounterMetricFamily("tapestry_node_gate", "What the gate has said.", labels=["word"])
        for word in ("passed", "refused"):
            passed.add_metric([word], int(gate.get(word) or 0))
        yield passed

    def _traffic(self) -> Iterator[Metric]:
        said = self._status["traffic"] or {}
        moved = CounterMetricFamily("tapestry_node_http_bytes", "All of HTTP.", labels=["direction"])
        for key, direction in MOVED.items():
            moved.add_metric([direction], int(said.get(key) or 0))
        requests = CounterMetricFamily("tapestry_node_http_requests", "To the core.")
        requests.add_metric([], int(said.get("requests") or 0))
        yield from (moved, requests)

    def _runs(self) -> Iterator[Metric]:
        merges = GaugeMetricFamily("tapestry_node_run_merges", "Of the base that is here.", labels=["run"])
        rounds = GaugeMetricFamily("tapestry_node_run_rounds", "Merges of the whole run.", labels=["run"])
        replayed = CounterMetricFamily("tapestry_node_run_replayed", "Merges repeated here.", labels=["run"])
        runs = self._status["runs"] or {}
        for run in kept(runs, self._timed()):
            if (said := runs.get(run)) is None:
                continue
            merges.add_metric([run], int(said.get("merges") or 0))
            rounds.add_metric([run], int(said.get("rounds") or 0))
            replayed.add_metric([run], int(said.get("replayed") or 0))
        yield from (merges, rounds, replayed)

    def _rounds(self) -> Iterator[Metric]:
        times = self._timed()
        seconds = GaugeMetricFamily(
            "tapestry_node_round_seconds", "Mean of the last rounds, by part.", labels=["run", "part"]
        )
        used = GaugeMetricFamily(
            "tapestry_node_utilisation", "Part of the time in which the trainer trained.", labels=["run"]
        )
        for run in kept(self._status["runs"] or {}, times):
            if (said := times.get(run)) is None:
                continue
            for part in PARTS:
                seconds.add_metric([run, part], float(said.get(f"{part}_s") or 0.0))
            if said["utilisation"] is not None:
                used.add_metric([run], float(said["utilisation"]))
        yield from (seconds, used)

    def _timed(self) -> dict[str, dict[str, Any]]:
        if time.monotonic() - self._read >= TIMES_S:
            self._times, self._read = account.summary(self._home), time.monotonic()
        return self._times

    def _keys(self) -> Iterator[Metric]:
        ends = GaugeMetricFamily(
            "tapestry_node_key_expires_timestamp_seconds", "End of its certificate.", labels=["role"]
        )
        for role in keys.KEY_ROLES:
            try:
                said = keys.load(self._home, role).certificate.unverified(KeyCertificate)
            except TapestryError:
                continue
            ends.add_metric([role], parse_time(said.expires).timestamp())
        yield ends


def kept(runs: Mapping[str, Any], timed: Iterable[str]) -> list[str]:
    """Those that have series.

    Args:
        runs: what is said of each.
        timed: runs, that whose round was timed last at the end.
    """
    newest = {run: number for number, run in enumerate(timed, start=1)}
    every = dict.fromkeys((*runs, *newest))
    return sorted(every, key=lambda run: (_over(runs.get(run)), -newest.get(run, 0)))[:MAX_RUNS]


def _over(said: Any) -> bool:
    """Whether a run has ended, or is not known any more."""
    return said is None or bool(said.get("finished"))


def _one(name: str, words: str, labels: dict[str, str], value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
