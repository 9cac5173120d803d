"""What a run's ledger tells, as far as pages draw it: rounds, bytes, time, the base's loss at each member."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from tapestry.ledger.entries import Entry
from tapestry.web.columns import Columns

GRADIENT_BYTES: Final = 2
"""Of a parameter in what synchronous training sends each step: 16 bits, one way."""
RECENT: Final = 20
"""Rounds from which the time left is reckoned."""
ROUND: Final = (
    "round", "merges", "opened_ms", "ended_ms", "nodes", "members", "tokens", "bytes", "busy_ms", "late",
    "refused",
)  # fmt: skip
SCORE: Final = ("merges", "bits", "bytes")


@dataclass(slots=True)
class _Open:
    """A round that is not committed yet."""

    opened_ms: int
    expected: int
    tokens: int = 0
    steps: int = 0
    bytes: int = 0
    busy_ms: int = 0
    late: int = 0
    refused: int = 0
    members: int = 0
    nodes: int = 0
    sent: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """By envelope: tokens, steps, bytes, and milliseconds of training."""


@dataclass(slots=True)
class Totals:
    """Of all rounds that were committed.

    Args:
        merged: contributions.
        busy_ms, node_ms: time in which nodes trained, as they say, and in which they could have.
        sync_bytes: what the same steps had sent by synchronous training, one way.
    """

    rounds: int = 0
    abandoned: int = 0
    merged: int = 0
    tokens: int = 0
    bytes: int = 0
    unsized: int = 0
    busy_ms: int = 0
    node_ms: int = 0
    sync_bytes: int = 0
    late: int = 0
    refused: int = 0


class Story:
    """Of one run. Entries go in as they were verified; memory grows with members, not with rounds.

    Args:
        plan: as the ledger states it.
    """

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.parameters = int(plan["parameters"])
        self.rounds = Columns(*ROUND)
        self.scores: dict[str, Columns] = {}
        """By member: bits per byte of the base after so many merges, on its own text."""
        self.first: dict[str, tuple[float, float]] = {}
        """By member: merges and bits of the first score."""
        self.totals = Totals()
        self.recent: deque[tuple[int, int]] = deque(maxlen=RECENT)
        """Opened and committed, milliseconds, of the newest rounds."""
        self.turn = 0
        """Entries taken: while it is the same, the story is."""
        self.started_ms = 0
        self.ended_ms = 0
        self._open: dict[tuple[int, int], _Open] = {}

    def take(self, entry: Entry, said: Mapping[str, Any] | None, at_ms: int) -> None:
        """The next entry of the run. `said`: the contribution that it names."""
        act = _ACTS.get(entry.type)
        if act is not None:
            act(self, entry.body, said, at_ms)
            self.turn += 1

    def round_s(self) -> float | None:
        """How long a round takes, by the newest ones."""
        if not self.recent:
            return None
        return median((ended - opened) / 1000 for opened, ended in self.recent)

    def utilisation(self) -> float | None:
        """What part of the time nodes trained, as they say."""
        return min(1.0, self.totals.busy_ms / self.totals.node_ms) if self.totals.node_ms else None

    # -- events ---------------------------------------------------------------------------------

    def _opened(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        key = body["round"], body["fragment"]
        self._open[key] = _Open(opened_ms=body["opened_ms"], expected=len(body["nodes"]))
        self.started_ms = self.started_ms or body["opened_ms"]

    def _handed(self, body: Mapping[str, Any], said: Mapping[str, Any] | None, _at_ms: int) -> None:
        at = self._open.get((body["round"], body["fragment"]))
        if at is None or body["contribution"] in at.sent:
            return
        told = said or {}
        took_ms = min(int(told.get("train_ms") or 0), max(0, body["received_ms"] - at.opened_ms))
        size = told.get("bytes")
        self.totals.unsized += size is None
        at.sent[body["contribution"]] = body["tokens"], body["steps"], int(size or 0), took_ms

    def _refused(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        at = self._open.get((body["round"], body["fragment"]))
        self.totals.refused += 1
        if at is not None:
            at.refused += 1

    def _late(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        at = self._open.get((body["round"], body["fragment"]))
        self.totals.late += 1
        if at is not None:
            at.late += 1

    def _closed(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        at = self._open.get((body["round"], body["fragment"]))
        if at is None:
            return
        at.nodes = len(body["merged"])
        at.members = len({each["member"] for each in body["merged"]})
        for each in body["merged"]:
            tokens, steps, size, took_ms = at.sent.get(each["contribution"], (0, 0, 0, 0))
            at.tokens += tokens
            at.steps += steps
            at.bytes += size
            at.busy_ms += took_ms

    def _committed(self, body: Mapping[str, Any], _said: Any, at_ms: int) -> None:
        at = self._open.pop((body["round"], body["fragment"]), None)
        if at is None:
            return
        self.ended_ms = at_ms
        self.recent.append((at.opened_ms, at_ms))
        totals = self.totals
        totals.rounds += 1
        totals.merged += at.nodes
        totals.tokens += at.tokens
        totals.bytes += at.bytes
        totals.busy_ms += at.busy_ms
        totals.node_ms += max(0, at_ms - at.opened_ms) * max(at.expected, at.nodes)
        totals.sync_bytes += at.steps * self.parameters * GRADIENT_BYTES
        self.rounds.add(
            *(body["round"], body["merges"], at.opened_ms, at_ms, at.nodes, at.members, at.tokens),
            *(at.bytes, at.busy_ms, at.late, at.refused),
        )

    def _abandoned(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        self._open.pop((body["round"], body["fragment"]), None)
        self.totals.abandoned += 1

    def _scored(self, body: Mapping[str, Any], _said: Any, _at_ms: int) -> None:
        scores = self.scores.get(body["member"])
        if scores is None:
            scores = self.scores[body["member"]] = Columns(*SCORE)
        merges, bits, size = float(body["merges"]), float(body["bits_per_byte"]), float(body["bytes"])
        self.first.setdefault(body["member"], (merges, bits))
        scores.add(merges, bits, size)


_ACTS: Final = {
    "round-opened": Story._opened,
    "contribution-received": Story._handed,
    "contribution-committed": Story._handed,
    "contribution-refused": Story._refused,
    "contribution-late": Story._late,
    "round-closed": Story._closed,
    "round-committed": Story._committed,
    "round-abandoned": Story._abandoned,
    "score-published": Story._scored,
}
