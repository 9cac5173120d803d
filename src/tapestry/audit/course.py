"""How a run went, from lines of its ledger: rounds, scores, tokens and bytes, for whoever shows it.

Entries are taken as they come, so that who watches a run reads each once. Nothing is verified here: a node
has done that with its own copy, `tapestry ledger verify` does it with any.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Final

from tapestry.audit.file import Line
from tapestry.governance.planner.exchange import all_reduce_bytes
from tapestry.ledger.entries import Entry
from tapestry.protocol.clock import seconds_between
from tapestry.rounds import events as ev
from tapestry.rounds.state import RunState, evolve

PACE_MERGES: Final = 8
"""Of so many of the last merges the pace is reckoned."""


@dataclass(kw_only=True)
class Past:
    """One round of one fragment."""

    round: int
    fragment: int
    opened_at: str
    nodes: int
    """Expected when it opened."""
    steps: int = 0
    """Of one node: the most that one of them trained."""
    tokens: int = 0
    """Of what was merged."""
    bytes: int = 0
    """Of what was merged, as far as nodes say it."""
    merged: int = 0
    refused: int = 0
    late: int = 0
    merges: int | None = None
    """Of the base that came of it."""
    ended_at: str | None = None
    abandoned: str | None = None


@dataclass(frozen=True)
class _Sent:
    tokens: int
    steps: int
    bytes: int


@dataclass
class Course:
    """One run; `take` every line of the ledger, in order."""

    run: str
    state: RunState | None = None
    sequence: int = 0
    """Of the newest entry of the whole ledger that was taken."""
    at: str = ""
    """When that was, by the core's clock."""
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    """Node → merges → bits per byte of that shared base on the node's own valid text."""
    members: dict[str, str] = field(default_factory=dict)
    """Node → member, of all nodes that ever took part."""
    sent: dict[str, int] = field(default_factory=dict)
    """Node → bytes of its updates that came whole, as far as it says them."""
    scored_at: dict[tuple[str, int], str] = field(default_factory=dict)
    rounds: dict[tuple[int, int], Past] = field(default_factory=dict)
    _envelope: bytes = b""
    _sizes: dict[str, int] = field(default_factory=dict)
    _sent: dict[str, _Sent] = field(default_factory=dict)

    def take(self, line: Line) -> bool:
        """Whether it said something of this run. Raises `FormatError` for an event that is none."""
        kind, value = line
        if kind == "blob":
            self._envelope = value
            return False
        envelope, self._envelope = self._envelope, b""
        if kind != "entry":
            return False
        self.sequence, self.at = value.sequence, value.at
        if value.scope != self.run:
            return False
        event = ev.parse_event(value.type, value.body)
        self.state = evolve(self.state, event)
        if isinstance(event, ev.ContributionReceived | ev.ContributionCommitted) and envelope:
            self._sizes[event.contribution] = stated_bytes(envelope)
        self._note(event, value)
        return True

    def _note(self, event: ev.Event, entry: Entry) -> None:
        match event:
            case ev.NodeEnrolled():
                self.members[event.node] = event.member
            case ev.RoundOpened():
                self.rounds[event.round, event.fragment] = Past(
                    round=event.round,
                    fragment=event.fragment,
                    opened_at=entry.at,
                    nodes=len(event.nodes),
                )
            case ev.ContributionReceived() | ev.ContributionRevealed():
                size = self._sizes.pop(event.contribution, 0)
                self.sent[event.node] = self.sent.get(event.node, 0) + size
                self._sent[event.contribution] = _Sent(event.tokens, event.steps, size)
            case ev.ScorePublished():
                self.scores.setdefault(event.node, {})[event.merges] = event.bits_per_byte
                self.scored_at[event.node, event.merges] = entry.at
        past = self.rounds.get((getattr(event, "round", -1), getattr(event, "fragment", -1)))
        if past is not None:
            self._in_round(past, event, entry.at)

    def _in_round(self, past: Past, event: ev.Event, at: str) -> None:
        match event:
            case ev.ContributionRefused():
                past.refused += 1
            case ev.ContributionLate():
                past.late += 1
            case ev.RoundClosed():
                past.merged = len(event.merged)
                for each in event.merged:
                    sent = self._sent.pop(each.contribution, _Sent(0, 0, 0))
                    past.tokens += sent.tokens
                    past.bytes += sent.bytes
                    past.steps = max(past.steps, sent.steps)
            case ev.RoundCommitted():
                past.merges, past.ended_at = event.merges, at
            case ev.RoundAbandoned():
                past.abandoned, past.ended_at = event.reason, at

    # -- figures --------------------------------------------------------------------------------

    @property
    def committed(self) -> list[Past]:
        """Rounds that led to a base, in the order of their merges."""
        return sorted((p for p in self.rounds.values() if p.merges is not None), key=lambda p: p.merges or 0)

    @property
    def sent_bytes(self) -> int:
        return sum(self.sent.values())

    def synchronous_bytes(self) -> float:
        """What the nodes of each round would have sent, had they trained its steps in synchronous data
        parallel: a ring all-reduce of fp32 gradients a step."""
        if self.state is None:
            return 0.0
        parameters, found = self.state.plan.parameters, 0.0
        for past in self.committed:
            if past.merged > 1:
                found += past.merged * past.steps * all_reduce_bytes(parameters, past.merged)
        return found

    def mean_score(self, merges: int) -> float | None:
        """Of the nodes that have scored this base; None where there is none."""
        found = [each[merges] for each in self.scores.values() if merges in each]
        return sum(found) / len(found) if found else None

    def left_s(self) -> float | None:
        """Until the last merge, at the pace of the last ones; None where there is no telling."""
        state, done = self.state, self.committed[-PACE_MERGES:]
        if state is None or state.status != "running" or not done:
            return None
        first = done[0]
        if len(done) > 1:
            times = (first.ended_at, done[-1].ended_at)
            merges = len(done) - 1
        else:
            times, merges = (first.opened_at, first.ended_at), 1
        took = seconds_between(str(times[0]), str(times[1])) / merges
        return max(0.0, took * (state.plan.rounds.total - state.merges))


def stated_bytes(envelope: bytes) -> int:
    """What a contribution says of its own size; 0 where it says nothing."""
    try:
        said = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
        size = said.get("bytes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0
    return size if isinstance(size, int) and size >= 0 else 0
