"""What a ledger says of releases: which are accepted, and where each state comes from.

All of it is of the entries up to the decision, so that whoever has the ledger, however much longer by now,
finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tapestry.audit import file
from tapestry.audit.file import Line
from tapestry.audit.verify import Verifier
from tapestry.errors import Refused, ReleaseError
from tapestry.governance.charter import Charter
from tapestry.governance.state import Assembly, Released
from tapestry.identity.envelope import Envelope
from tapestry.ledger.entries import Entry, Founded, consortium_event
from tapestry.protocol import canonical
from tapestry.protocol.messages import Contribution, Merged
from tapestry.protocol.plan import Plan
from tapestry.release.messages import Listed, Releases
from tapestry.rounds import events as ev

OF_RUNS: Final = frozenset(
    ("run-planned", "plan-revised", "round-opened", "round-closed", "round-committed", "score-published")
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a member has in a base.

    Args:
        rounds: with an accepted contribution.
        weight: of these in all merges together, in the units of `Merged`.
        tokens: as the contributions say.
    """

    member: str
    rounds: int
    weight: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A node's own figure for the base."""

    member: str
    node: str
    bits_per_byte: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one release.

    Args:
        plan: in force for the round that led to the state.
        rounds: the round that led to it; 0 for a state that a run began with.
        charter: in force at the decision.
    """

    consortium: str
    title: str
    release: str
    decision: str
    sequence: int
    at: str
    charter: Charter
    run: str
    state: str
    merges: int
    rounds: int
    plan: Plan
    parts: tuple[Part, ...]
    scores: tuple[Scored, ...]


@dataclass
class _Run:
    plans: dict[str, Plan] = field(default_factory=dict)
    in_force: dict[int, str] = field(default_factory=dict)
    heads: dict[str, tuple[int, int]] = field(default_factory=dict)
    """State → merges, round."""
    merged: dict[int, tuple[Merged, ...]] = field(default_factory=dict)
    scores: dict[str, dict[str, Scored]] = field(default_factory=dict)
    """State → node → its figure."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A ledger that holds, as far as releases go.

    Args:
        at: time of its last entry.
        facts: of each accepted release whose state stands in a run.
        ever: members whom a charter in force has ever named as holders.
        least: the fewest signatures that a charter in force has ever asked for.
    """

    consortium: str
    title: str
    at: str
    assembly: Assembly
    facts: dict[str, Facts]
    ever: frozenset[str]
    least: int

    @property
    def releases(self) -> dict[str, Released]:
        return self.assembly.governance.releases

    def decided_at(self, proposal: str) -> str:
        outcome = self.assembly.governance.proposals[proposal].outcome
        assert outcome is not None  # noqa: S101 - what a release names has passed
        return outcome.at

    def listed(self) -> Releases:
        """The list that the repository shows."""
        found = [
            Listed(
                release=name,
                decision=each.decision,
                state=each.state,
                at=self.decided_at(each.decision),
                revoked=each.revoked,
                revoked_at=None if each.revoked is None else self.decided_at(each.revoked),
            )
            for name, each in self.releases.items()
        ]
        found.sort(key=lambda each: (each.at, each.release))
        return Releases(consortium=self.consortium, title=self.title, releases=tuple(found))

    def accepted(self, name: str) -> Facts:
        """Raises `Refused` where no decision in force is for it, `ReleaseError` where its state is of no
        run."""
        held = self.releases.get(name)
        if held is None:
            raise Refused(
                f"no decision of the members accepts a release {name} in this copy of the ledger",
                hint=f"put it to the vote: tapestry proposal new accept-release --release {name}; "
                "where that was done, this copy is older",
            )
        if held.revoked is not None:
            raise Refused(
                f"release {name} was revoked on {self.decided_at(held.revoked)} by decision "
                f"{held.revoked[:12]}",
                hint="propose without its name, so that those who fetch are told; a new one has a new name",
            )
        found = self.facts.get(name)
        if found is None:
            raise ReleaseError(
                f"the state {held.state[:12]} of release {name} stood in no run of the ledger when it was "
                "accepted",
                hint="put a state to the vote that `tapestry run status` shows, under another name",
            )
        return found


def read(lines: Iterable[Line], told: Callable[[int], None] = lambda _: None) -> View:
    """Verify a ledger and see what it says of releases. Raises `IntegrityError` where it does not hold."""
    watcher = _Watcher(told)
    for line in lines:
        watcher.line(line)
    return watcher.view()


class _Watcher:
    def __init__(self, told: Callable[[int], None]) -> None:
        self._verifier = Verifier(told)
        self._runs: dict[str, _Run] = {}
        self._tokens: dict[str, int] = {}
        """Contribution → tokens."""
        self._facts: dict[str, Facts] = {}
        self._blob = b""
        self._title = self._at = ""
        self._ever: set[str] = set()
        self._least = 1 << 20
        self._ended = False

    def line(self, line: Line) -> None:
        if self._ended:
            raise ReleaseError("the ledger goes on after its checkpoint")
        self._verifier.line(line)
        kind, value = line
        if kind == "blob":
            self._blob = value
        elif kind == "entry":
            self._entry(value)
            self._blob = b""
        else:
            self._ended = True

    def view(self) -> View:
        if not self._ended:
            raise ReleaseError("the ledger ends without a checkpoint; it was cut off")
        return View(
            consortium=self._verifier.found.consortium,
            title=self._title,
            at=self._at,
            assembly=self._verifier.assembly,
            facts=self._facts,
            ever=frozenset(self._ever),
            least=self._least,
        )

    def _entry(self, entry: Entry) -> None:
        self._at = entry.at
        if file.NAMED.get(entry.type) == "contribution":
            said = Envelope.from_bytes(self._blob).unverified(Contribution)
            self._tokens[canonical.sha256(self._blob)] = said.tokens
        elif entry.type == "founded":
            event = consortium_event(entry)
            assert isinstance(event, Founded)  # noqa: S101 - the verifier has seen it
            self._title = event.title
        elif entry.type in ("charter-adopted", "proposal-decided"):
            charter = self._verifier.assembly.governance.charter
            if charter is not None:
                self._ever.update(charter.release.holders)
                self._least = min(self._least, charter.release.signatures)
                self._decided(entry, charter)
        elif entry.type in OF_RUNS:
            self._of_run(entry)

    def _of_run(self, entry: Entry) -> None:
        event, run = ev.parse_event(entry.type, entry.body), self._runs.setdefault(entry.scope, _Run())
        match event:
            case ev.RunPlanned():
                run.plans[event.plan.digest] = event.plan
                run.heads[event.plan.initial_state] = (event.plan.merges_before, event.plan.rounds_before)
            case ev.PlanRevised():
                run.plans[event.plan.digest] = event.plan
            case ev.RoundOpened():
                run.in_force[event.round] = event.plan
            case ev.RoundClosed():
                run.merged[event.round] = event.merged
            case ev.RoundCommitted():
                run.heads[event.state] = (event.merges, event.round)
            case ev.ScorePublished():
                scored = Scored(
                    member=event.member,
                    node=event.node,
                    bits_per_byte=event.bits_per_byte,
                    bytes=event.bytes,
                )
                run.scores.setdefault(event.state, {})[event.node] = scored

    def _decided(self, entry: Entry, charter: Charter) -> None:
        governance = self._verifier.assembly.governance
        for name, held in governance.releases.items():
            outcome = governance.proposals[held.decision].outcome
            if outcome is not None and outcome.sequence == entry.sequence:
                found = self._found(name, held, entry, charter)
                if found is not None:
                    self._facts[name] = found

    def _found(self, name: str, held: Released, entry: Entry, charter: Charter) -> Facts | None:
        of = next(((run, each) for run, each in self._runs.items() if held.state in each.heads), None)
        if of is None:
            return None
        run, record = of
        merges, rounds = record.heads[held.state]
        plan = record.in_force.get(rounds, next(iter(record.plans)))
        return Facts(
            consortium=self._verifier.found.consortium,
            title=self._title,
            release=name,
            decision=held.decision,
            sequence=entry.sequence,
            at=entry.at,
            charter=charter,
            run=run,
            state=held.state,
            merges=merges,
            rounds=rounds,
            plan=record.plans[plan],
            parts=self._parts(record, rounds),
            scores=tuple(each for _, each in sorted(record.scores.get(held.state, {}).items())),
        )

    def _led_to(self, record: _Run, last: int) -> Iterator[tuple[int, tuple[Merged, ...]]]:
        """What was merged up to a round; in the run that this one repeats from the middle, too.

        Rounds that were given up have no state, and their number comes again or never: those are left out
        whose round led to no head.
        """
        seen: list[_Run] = []
        while not any(record is each for each in seen):
            seen.append(record)
            committed = {number for _, number in record.heads.values()}
            own = {number: each for number, each in record.merged.items() if number in committed}
            plan = next(iter(record.plans.values()))
            yield from ((number, each) for number, each in own.items() if plan.rounds_before < number <= last)
            if plan.origin is None or plan.origin.run not in self._runs:
                return
            record, last = self._runs[plan.origin.run], plan.origin.round

    def _parts(self, record: _Run, last: int) -> tuple[Part, ...]:
        rounds: dict[str, set[int]] = {}
        weight: dict[str, int] = {}
        contributions: dict[str, set[str]] = {}
        for number, merged in self._led_to(record, last):
            for each in merged:
                rounds.setdefault(each.member, set()).add(number)
                weight[each.member] = weight.get(each.member, 0) + each.weight
                contributions.setdefault(each.member, set()).add(each.contribution)
        return tuple(
            Part(
                member=member,
                rounds=len(rounds[member]),
                weight=weight[member],
                tokens=sum(self._tokens.get(each, 0) for each in contributions[member]),
            )
            for member in sorted(rounds)
        )
