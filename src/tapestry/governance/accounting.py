"""What each member gave: the account of runs, a fold over the ledger's entries.

    fold = Fold(on_row=rows.append)
    for entry, said in ...: fold.take(entry, said)
    account = fold.account()

Entries go in as they stand; that they hold is for who verified them. Memory grows with members, nodes and
runs, and with the few rounds that may still change; not with entries. All numbers are whole, so that all
find the same. What counts how is in docs/formats/entitlements.md; none of it is a token or a currency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from tapestry.governance.delivered import MAX_RANKS
from tapestry.governance.throughput import Throughput, bounded, middle, time_at
from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.rounds.state import KEPT_ROUNDS
from tapestry.rounds.weights import UNIT

Said = Mapping[str, Any]
"""A contribution as its node signed it: the fields of a `Contribution`."""
NAMES_CONTRIBUTION: Final = frozenset(("contribution-received", "contribution-committed"))
LATE: Final = "late"
_HANDED: Final = frozenset((*NAMES_CONTRIBUTION, "contribution-revealed"))


@dataclass(kw_only=True, slots=True)
class Row:
    """One member in one round of a run; of several nodes, all together.

    Args:
        expected: a node of it was to contribute.
        accepted: contributions that passed screening; tokens, steps, bytes and times are theirs.
        late: of these, from an earlier round.
        merged, weight: those that entered a merge, and what they weighed there, in units of 2^-24.
        claimed_ms: training time by ranks, as the nodes say. None of them says: `untimed` is all.
        plausible_ms: what of it the node's own throughput bears out; None as long as nobody can tell.
        unsized: accepted contributions that do not state their bytes.
        refused: why, once for each.
    """

    run: str
    round: int
    member: str
    expected: bool = False
    accepted: int = 0
    late: int = 0
    merged: int = 0
    weight: int = 0
    tokens: int = 0
    steps: int = 0
    bytes: int = 0
    unsized: int = 0
    claimed_ms: int = 0
    untimed: int = 0
    refused: list[str] = field(default_factory=list)
    timed: list[tuple[str, int, int]] = field(default_factory=list)
    """Node, tokens, and time bounded by the round, of each that states its time: for `plausible`."""


@dataclass(kw_only=True, slots=True)
class Sums:
    """A member's account of a run, or of all.

    Args:
        expected, answered: rounds in which a node of it was expected, and of these with something accepted.
        rounds: with something accepted, expected or not.
        merged: rounds in whose merge it has a part.
        weight: what its parts weighed, in units of 2^-24; a merge is 2^24 of them.
        plausible_ms: see `throughput`. `typical_ms`: what the run's middle node takes for as many tokens.
        attested: merges that it has repeated and signed for.
    """

    expected: int = 0
    answered: int = 0
    rounds: int = 0
    accepted: int = 0
    late: int = 0
    merged: int = 0
    weight: int = 0
    tokens: int = 0
    steps: int = 0
    bytes: int = 0
    unsized: int = 0
    claimed_ms: int = 0
    plausible_ms: int = 0
    typical_ms: int = 0
    untimed: int = 0
    attested: int = 0
    refused: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a round."""
        answered = row.accepted > 0
        self.expected += row.expected
        self.answered += row.expected and answered
        self.rounds += answered
        self.merged += row.merged > 0
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(row, name))
        for why in row.refused:
            self.refused[why] = self.refused.get(why, 0) + 1

    def plus(self, other: Sums) -> Sums:
        """Of both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in NUMBERS}
        refused = dict(self.refused)
        for why, count in other.refused.items():
            refused[why] = refused.get(why, 0) + count
        return Sums(**sums, refused=refused)


_SUMMED: Final = (
    "accepted", "late", "weight", "tokens", "steps", "bytes", "unsized", "claimed_ms", "untimed",
)  # fmt: skip
NUMBERS: Final = tuple(name for name in Sums.__slots__ if name != "refused")
"""Fields of `Sums` but the reasons, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunAccount:
    """Of one run. `merges`: in its whole ledger; each has 2^24 units of weight."""

    run: str
    rounds: int
    merges: int
    members: dict[str, Sums]

    def share(self, member: str) -> Fraction:
        """Of the weight of all merges."""
        return Fraction(self.members[member].weight, UNIT * self.merges) if self.merges else Fraction(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Of all runs. `speeds`: of each node of a run, and of the run, for the times of single rows."""

    runs: dict[str, RunAccount]
    disputes: tuple[Entry, ...]
    speeds: dict[str, dict[str, int]]

    def total(self) -> dict[str, Sums]:
        """By member, all runs together."""
        found: dict[str, Sums] = {}
        for run in self.runs.values():
            for member, sums in run.members.items():
                found[member] = found.get(member, Sums()).plus(sums)
        return dict(sorted(found.items()))

    def plausible(self, row: Row) -> int:
        """Of a row's time, milliseconds by ranks."""
        speeds = self.speeds[row.run]
        return sum(bounded(speeds[node], tokens, ms) for node, tokens, ms in row.timed)


@dataclass(slots=True)
class _Sent:
    """A contribution under way."""

    member: str
    tokens: int
    steps: int
    late: bool
    train_ms: int | None = None
    ranks: int = 1
    bytes: int | None = None
    window_ms: int = 0


@dataclass(slots=True)
class _Round:
    nodes: set[str]
    rows: dict[str, Row]
    sent: dict[str, _Sent] = field(default_factory=dict)
    """By digest of the envelope."""
    merged: list[dict[str, Any]] = field(default_factory=list)
    open: bool = True
    training: bool = True


@dataclass(slots=True)
class _Run:
    overlaps: bool
    staleness: int
    rounds: int = 0
    merges: int = 0
    member_of: dict[str, str] = field(default_factory=dict)
    open: dict[int, _Round] = field(default_factory=dict)
    """Rounds that may still change, by number."""
    opened_ms: dict[int, int] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=dict)
    speed: dict[str, Throughput] = field(default_factory=dict)
    """By node."""
    next: tuple[bool, int] | None = None
    """Of a revised plan, from the next round on."""


class Fold:
    """Takes the entries of a ledger in order.

    Args:
        on_row: hears of every member in every round, once nothing can change it; those of a round together,
            by member.
        only: runs to look at; all if None.
    """

    def __init__(self, on_row: Callable[[Row], object] = lambda _: None, *, only: str | None = None) -> None:
        self._on_row, self._only = on_row, only
        self._runs: dict[str, _Run] = {}
        self._disputes: list[Entry] = []

    def take(self, entry: Entry, said: Said | None = None) -> None:
        """The next entry. `said`: the contribution that it names, where it does and that is at hand."""
        if entry.scope == CONSORTIUM:
            if entry.type == "account-disputed":
                self._disputes.append(entry)
            return
        if self._only is not None and entry.scope != self._only:
            return
        kind, body = entry.type, entry.body
        if kind == "run-planned":
            self._runs[entry.scope] = _Run(*_rules(body["plan"]))
            return
        run = self._runs[entry.scope]
        if kind in _HANDED:
            self._handed(run, body, said)
        elif kind in _OTHERS:
            _OTHERS[kind](self, run, body, entry.scope)

    def account(self) -> Account:
        """Of all that was taken; rounds that might still change are counted as they are."""
        for run in self._runs.values():
            for number in sorted(run.open):
                self._end(run, number)
        found = {name: _account(name, run) for name, run in self._runs.items()}
        speeds = {
            name: {node: each.middle() for node, each in run.speed.items()}
            for name, run in self._runs.items()
        }
        return Account(runs=found, disputes=tuple(self._disputes), speeds=speeds)

    # -- events ---------------------------------------------------------------------------------

    def _opened(self, run: _Run, body: Said, scope: str) -> None:
        if run.next is not None:
            (run.overlaps, run.staleness), run.next = run.next, None
        number = body["round"]
        run.rounds += 1
        at = run.open[number] = _Round(nodes=set(), rows={})
        run.opened_ms[number] = body["opened_ms"]
        self._expect(run, at, number, scope, body["nodes"])
        ended = [each for each in run.open if not run.open[each].open]
        for old in sorted(ended)[: max(0, len(ended) - KEPT_ROUNDS - run.staleness)]:
            self._end(run, old)
            run.opened_ms.pop(old - 1, None)

    def _expect(self, run: _Run, at: _Round, number: int, scope: str, nodes: list[str]) -> None:
        for node in nodes:
            at.nodes.add(node)
            self._row(at, scope, number, run.member_of[node]).expected = True

    def _row(self, at: _Round, scope: str, number: int, member: str) -> Row:
        row = at.rows.get(member)
        if row is None:
            row = at.rows[member] = Row(run=scope, round=number, member=member)
        return row

    def _handed(self, run: _Run, body: Said, said: Said | None) -> None:
        at = run.open[body["round"]]
        if body["contribution"] in at.sent:  # revealed: what was signed came with the commitment
            return
        sent = _Sent(body["member"], body["tokens"], body["steps"], body["lag"] > 0)
        trained = body["round"] - body["lag"]
        begun = run.opened_ms.get(trained - run.overlaps, run.opened_ms.get(trained))
        sent.window_ms = max(0, body["received_ms"] - (begun if begun is not None else 0))
        if said is not None:
            sent.train_ms, sent.bytes = said.get("train_ms"), said.get("bytes")
            ranks = said.get("environment", {}).get("ranks", "1")
            told = ranks.isdecimal() and len(ranks) < 8 and 0 < int(ranks) <= MAX_RANKS
            sent.ranks = int(ranks) if told else 1
        at.sent[body["contribution"]] = sent

    def _accepted(self, run: _Run, body: Said, scope: str) -> None:
        at = run.open[body["round"]]
        sent = at.sent[body["contribution"]]
        row = self._row(at, scope, body["round"], sent.member)
        row.accepted += 1
        row.late += sent.late
        row.tokens += sent.tokens
        row.steps += sent.steps
        row.bytes += sent.bytes or 0
        row.unsized += sent.bytes is None
        if sent.train_ms is None:
            row.untimed += 1
            return
        row.claimed_ms += sent.train_ms * sent.ranks
        ms = min(sent.train_ms, sent.window_ms) * sent.ranks
        row.timed.append((body["node"], sent.tokens, ms))
        run.speed.setdefault(body["node"], Throughput(sent.member)).take(sent.tokens, ms)

    def _refused(self, run: _Run, body: Said, scope: str) -> None:
        """Too late is also what a node sends that never enrolled here: it has no account in this run."""
        at, member = run.open.get(body["round"]), run.member_of.get(body["node"])
        if at is not None and member is not None:
            self._row(at, scope, body["round"], member).refused.append(body.get("reason", LATE))

    def _closed(self, run: _Run, body: Said, _scope: str) -> None:
        at = run.open[body["round"]]
        at.merged, at.training = body["merged"], False

    def _sealed(self, run: _Run, body: Said, _scope: str) -> None:
        run.open[body["round"]].training = False

    def _committed(self, run: _Run, body: Said, scope: str) -> None:
        at = run.open[body["round"]]
        at.open, run.merges = False, run.merges + 1
        for each in at.merged:
            row = self._row(at, scope, body["round"], each["member"])
            row.merged += 1
            row.weight += each["weight"]

    def _abandoned(self, run: _Run, body: Said, _scope: str) -> None:
        run.open[body["round"]].open = False

    def _widened(self, run: _Run, body: Said, scope: str) -> None:
        self._expect(run, run.open[body["round"]], body["round"], scope, body["nodes"])

    def _enrolled(self, run: _Run, body: Said, _scope: str) -> None:
        run.member_of[body["node"]] = body["member"]

    def _withdrawn(self, run: _Run, body: Said, scope: str) -> None:
        """From the round in flight on it is expected no more."""
        member = run.member_of[body["node"]]
        for number, at in run.open.items():
            if at.open and at.training and body["node"] in at.nodes:
                at.nodes.discard(body["node"])
                self._row(at, scope, number, member).expected = any(
                    run.member_of[node] == member for node in at.nodes
                )

    def _attested(self, run: _Run, body: Said, _scope: str) -> None:
        run.sums.setdefault(body["member"], Sums()).attested += 1

    def _revised(self, run: _Run, body: Said, _scope: str) -> None:
        run.next = _rules(body["plan"])

    def _end(self, run: _Run, number: int) -> None:
        for member in sorted((at := run.open.pop(number)).rows):
            row = at.rows[member]
            run.sums.setdefault(member, Sums()).add(row)
            self._on_row(row)


_OTHERS: Final[dict[str, Callable[[Fold, _Run, Said, str], None]]] = {
    "round-opened": Fold._opened,
    "round-widened": Fold._widened,
    "round-sealed": Fold._sealed,
    "round-closed": Fold._closed,
    "round-committed": Fold._committed,
    "round-abandoned": Fold._abandoned,
    "contribution-accepted": Fold._accepted,
    "contribution-refused": Fold._refused,
    "contribution-late": Fold._refused,
    "node-enrolled": Fold._enrolled,
    "node-withdrawn": Fold._withdrawn,
    "base-attested": Fold._attested,
    "plan-revised": Fold._revised,
}


def _rules(plan: Said) -> tuple[bool, int]:
    """Whether nodes train ahead of the base, and how late a contribution may be."""
    return plan["streaming"]["overlap_steps"] > 0, plan["rounds"]["staleness"]


def _account(name: str, run: _Run) -> RunAccount:
    typical = middle(place for each in run.speed.values() if (place := each.middle()))
    for sums in run.sums.values():
        sums.plausible_ms = sums.typical_ms = 0
    for each in run.speed.values():
        sums = run.sums[each.member]
        sums.plausible_ms += each.plausible_ms()
        sums.typical_ms += time_at(typical, each.tokens)
    for member in run.member_of.values():
        run.sums.setdefault(member, Sums())
    members = dict(sorted(run.sums.items()))
    return RunAccount(run=name, rounds=run.rounds, merges=run.merges, members=members)
