"""Figures of a core for Prometheus: where runs stand, what was refused, what requests take.

Labels are names of runs and closed lists of words. No member and no node has a series of its own: who
watches a core's health need not know whose update was late, and a consortium of a thousand has no more series
than one of three. See docs/decisions/0046-metrics-without-names.md.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter as Count
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tapestry import __version__
from tapestry.core.service import Core
from tapestry.errors import TapestryError
from tapestry.protocol.clock import parse_time
from tapestry.protocol.views import ContributionStatus, Phase, RunStatus
from tapestry.rounds.events import ScorePublished, parse_event
from tapestry.rounds.state import RunState
from tapestry.rounds.waiting import waiting_for

MAX_RUNS: Final = 32
"""Runs that have series of their own: those in flight, then planned ones, then the last that ended."""
FIRST: Final[tuple[RunStatus, ...]] = ("running", "planned", "finished")
SOON_S: Final = 30 * 86_400
REASONS: Final = frozenset({"artifact", "over-norm", "copied", "leak", "hash-mismatch", "not-finite",
                            "blob-missing", "format", "version", "integrity"})  # fmt: skip
METHODS: Final = frozenset({"GET", "POST", "PUT"})
SECONDS: Final = (0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0)
STANDINGS: Final = ("awaited", *get_args(ContributionStatus))
BUSY: Final = "runs"


class CoreMetrics:
    """Of one serving process. `tell` hears what its log hears, `counted` sees its requests."""

    def __init__(self, core: Core, trouble: Mapping[str, str], tls_expires: float | None = None) -> None:
        self._core = core
        self._registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self._registry)
        self._registry.register(_Standing(core, trouble, tls_expires))

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(name, words, labels, registry=self._registry)

        self._merges = counter("tapestry_merges", "Merges this process has computed.")
        self._merged_bytes = counter("tapestry_merge_input_bytes", "Bytes of contributions that were merged.")
        self._merge_seconds = Histogram(
            "tapestry_merge_seconds", "Of one merge.", buckets=SECONDS, registry=self._registry
        )
        self._refused = counter("tapestry_contributions_refused", "By reason.", "reason")
        self._abandoned = counter("tapestry_rounds_abandoned", "Rounds that ended without a merge.")
        self._troubles = counter("tapestry_troubles", "Times the core could not do its part.")
        self._faults = counter("tapestry_faults", "Exceptions that are faults of this release.")
        self._requests = counter("tapestry_http_requests", "Answered.", "kind", "method", "status")
        self._request_seconds = Histogram(
            "tapestry_http_request_seconds",
            "Until the answer was sent; a poll waits on purpose.",
            ("kind",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._http_bytes = counter("tapestry_http_bytes", "Of bodies.", "kind", "direction")

        for reason in (*sorted(REASONS), "other"):  # there from the first scrape on
            self._refused.labels(reason)

    def page(self) -> bytes:
        return bytes(generate_latest(self._registry))

    def health(self) -> str | None:
        """Whether the log answers. A run in trouble is no reason to start the core again."""
        try:
            self._core.journal.sequences()
        except TapestryError as error:
            return error.message
        return None

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Something happened."""
        match event:
            case "merged":
                self._merges.inc()
                self._merge_seconds.observe(float(fields["seconds"]))
                self._merged_bytes.inc(float(fields["input_bytes"]))
            case "contribution-refused":
                reason = str(fields["reason"])
                self._refused.labels(reason if reason in REASONS else "other").inc()
            case "round-abandoned":
                self._abandoned.inc()
            case "trouble" | "log-unreadable" | "leadership-unknown":
                self._troubles.inc()

    def unexpected(self) -> None:
        self._faults.inc()

    def counted(self, app: ASGIApp) -> ASGIApp:
        """The same application, its requests counted."""

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            kind, method = _kind(scope), str(scope["method"])
            began, status, sizes = time.monotonic(), "none", [0, 0]

            async def hear() -> Message:
                message = await receive()
                sizes[0] += len(message.get("body", b""))
                return message

            async def say(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = f"{message['status'] // 100}xx"
                sizes[1] += len(message.get("body", b""))
                await send(message)

            try:
                await app(scope, hear, say)
            finally:
                self._requests.labels(kind, method if method in METHODS else "other", status).inc()
                self._request_seconds.labels(kind).observe(time.monotonic() - began)
                self._http_bytes.labels(kind, "in").inc(sizes[0])
                self._http_bytes.labels(kind, "out").inc(sizes[1])

        return outer


def _kind(scope: Scope) -> str:
    parts = str(scope["path"]).strip("/").split("/")
    if parts[:2] == ["v1", "blobs"]:
        return "blobs"
    if parts[:2] in (["v1", "ledger"], ["v1", "events"]):
        return "ledger"
    if parts[:2] == ["v1", "runs"]:
        return "poll" if len(parts) == 3 else BUSY
    return "other"


class _Standing(Collector):
    """What can be read at the moment of a scrape."""

    def __init__(self, core: Core, trouble: Mapping[str, str], tls_expires: float | None) -> None:
        self._core = core
        self._trouble = trouble
        self._tls_expires = tls_expires

    def collect(self) -> Iterator[Metric]:
        yield _one("tapestry_build_info", "Always 1.", {"version": __version__}, 1)
        yield _one("tapestry_trouble", "Runs, or the core itself, in trouble.", {}, len(self._trouble))
        yield from _disk(self._core.home.root)
        if self._tls_expires is not None:
            words = "End of the certificate."
            yield _one("tapestry_tls_expires_timestamp_seconds", words, {}, self._tls_expires)
        try:
            yield from self._consortium()
            yield from self._runs()
        except TapestryError:  # `tapestry_log_readable` says so
            yield _one("tapestry_log_readable", "Whether the event log answers.", {}, 0)
        else:
            yield _one("tapestry_log_readable", "Whether the event log answers.", {}, 1)

    def _consortium(self) -> Iterator[Metric]:
        core = self._core
        sequences, ring = core.journal.sequences(), core.consortium.ring()
        now = core.journal.now_ms() / 1000
        keys = [key for key in ring.keys.values() if key.revoked is None]
        ends = [parse_time(key.certificate.expires).timestamp() for key in keys]
        yield _one("tapestry_ledger_entries", "Of the event log.", {}, max(sequences.values(), default=0))
        yield _one("tapestry_members", "Admitted.", {}, len(ring.members))
        valid = sum(end > now for end in ends)
        yield _one("tapestry_keys_valid", "Keys of nodes and members that hold.", {}, valid)
        soon = sum(now < end < now + SOON_S for end in ends)
        yield _one("tapestry_keys_expiring", "Of these, within thirty days.", {}, soon)

    def _runs(self) -> Iterator[Metric]:
        core = self._core
        states = [core.runs.standing(name).state for name in core.runs.names()]
        by_status = GaugeMetricFamily("tapestry_runs", "Runs, by status.", labels=["status"])
        count = Count(state.status for state in states)
        for status in get_args(RunStatus):
            by_status.add_metric([status], count[status])
        yield by_status
        yield from _of_runs(kept(states, core.journal.sequences()), self._core, self._trouble)


def kept(states: Iterable[RunState], newest: Mapping[str, int]) -> list[RunState]:
    """Those that have series. `newest`: position of each run's newest entry."""
    found = sorted(states, key=lambda state: (FIRST.index(state.status), -newest.get(state.run, 0)))
    return found[:MAX_RUNS]


def _of_runs(states: list[RunState], core: Core, trouble: Mapping[str, str]) -> Iterator[Metric]:
    now_ms = core.journal.now_ms()

    def gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"tapestry_run_{name}", words, labels=["run", *labels])

    merges = gauge("merges", "Merges so far.")
    rounds = gauge("rounds", "Merges of the whole run.")
    opened = gauge("round", "The round in flight; 0 where there is none.")
    deadline = gauge("deadline_seconds", "Until the deadline of its phase; negative when that has passed.")
    phases = gauge("phase", "1 for the phase of the round in flight.", "phase")
    nodes = gauge("nodes", "Nodes in the round in flight, by what their contribution is.", "standing")
    enrolled = gauge("enrolled", "Nodes that take part.")
    waiting = gauge("waiting", "1 where it waits for somebody.")
    troubled = gauge("trouble", "1 where the core cannot do its part.")
    score = gauge("bits_per_byte", "Mean over nodes of the newest base that was scored.")
    for state in states:
        run, at = state.run, state.current
        merges.add_metric([run], state.merges)
        rounds.add_metric([run], state.plan.rounds.total)
        enrolled.add_metric([run], len(state.enrolled))
        opened.add_metric([run], at.round if at is not None else 0)
        waiting.add_metric([run], waiting_for(state, now_ms) is not None)
        troubled.add_metric([run], run in trouble)
        if at is not None:
            deadline.add_metric([run], (at.deadline_ms - now_ms) / 1000)
        for phase in get_args(Phase):
            phases.add_metric([run, phase], at is not None and at.phase == phase)
        count = Count[str]()
        if at is not None:
            count.update(submission.status for submission in at.submissions.values())
            count["late"] += len(at.late)
            count["awaited"] += sum(node not in at.submissions and node not in at.late for node in at.nodes)
        for standing in STANDINGS:
            nodes.add_metric([run, standing], count[standing])
        if (mean := _mean_score(core, state)) is not None:
            score.add_metric([run], mean)
    yield from (merges, rounds, opened, deadline, phases, nodes, enrolled, waiting, troubled, score)


def _mean_score(core: Core, state: RunState) -> float | None:
    for merges in (state.merges, state.merges - 1):
        entries = core.journal.of_round(state.run, merges, "score-published") if merges >= 0 else []
        events = (parse_event(entry.type, entry.body) for entry in entries)
        found = [event.bits_per_byte for event in events if isinstance(event, ScorePublished)]
        if found:
            return sum(found) / len(found)
    return None


def _disk(folder: Path) -> Iterator[Metric]:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return
    yield _one("tapestry_disk_free_bytes", "Where the core's folder lies.", {}, usage.free)
    yield _one("tapestry_disk_bytes", "Of that disk.", {}, usage.total)


def _one(name: str, words: str, labels: dict[str, str], value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def expiry_of(certificate: Path) -> float | None:
    """When the first certificate of a PEM file ends, in seconds since 1970; None where it cannot be read."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp()
    except (OSError, ValueError, IndexError):
        return None
