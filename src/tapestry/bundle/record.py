"""What a ledger that passes by says of one node and of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tapestry.audit import file
from tapestry.audit.file import Line
from tapestry.bundle.manifest import Inclusion
from tapestry.identity.envelope import Envelope
from tapestry.ledger import tree
from tapestry.ledger.entries import Entry, KeyCertified, consortium_event
from tapestry.protocol import canonical
from tapestry.protocol.messages import Attestation, Contribution, KeyCertificate
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev

CONTRIBUTION: Final = "contribution"


@dataclass(frozen=True)
class Own:
    """A contribution of the node, where the ledger names its envelope first."""

    said: Contribution
    digest: str
    """Of the envelope."""
    entry: Entry
    envelope: bytes


@dataclass(frozen=True)
class Head:
    """A state that the ledger names."""

    merges: int
    round: int
    base: str | None
    """None for the initial state, whose base only the state itself names."""
    sequence: int


@dataclass
class RunRecord:
    """One run."""

    plans: dict[str, Plan] = field(default_factory=dict)
    in_force: dict[int, str] = field(default_factory=dict)
    """By round: digest of its plan."""
    heads: dict[str, Head] = field(default_factory=dict)
    """By state."""
    attested: dict[str, set[str]] = field(default_factory=dict)
    """By state: members who have attested it."""
    merged: set[str] = field(default_factory=set)
    """Contributions that are in a merge."""
    members: set[str] = field(default_factory=set)
    tokens: int = 0
    newest: str = ""
    """The newest state."""
    enrolled: set[str] = field(default_factory=set)
    """Nodes."""
    finished: bool = False

    def plan_of(self, state: str) -> str:
        """Digest of the plan in force for the round that led to a state."""
        found = self.in_force.get(self.heads[state].round)
        return found if found is not None else next(iter(self.plans))


class Record:
    """Watches the lines of a ledger. Says nothing of whether they hold: that is `audit`'s part."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.own: dict[str, Own] = {}
        """By digest of the envelope."""
        self.runs: dict[str, RunRecord] = {}
        self.certificates: dict[str, bytes] = {}
        """By key: envelopes of those of the node."""
        self.checkpoint = ""
        self.at = ""
        """Time of the last entry, by the core's clock."""
        self._tree = tree.Tree()
        self._blob = b""
        self._tokens: dict[str, int] = {}

    @property
    def entries(self) -> int:
        return self._tree.size

    @property
    def root(self) -> str:
        return self._tree.root().hex()

    def watch(self, lines: Iterable[Line]) -> Iterator[Line]:
        """The same lines."""
        for line in lines:
            yield line
            self._see(line)

    def read(self, lines: Iterable[Line]) -> Record:
        """All lines, for a ledger that was verified before."""
        for line in lines:
            self._see(line)
        return self

    def inclusions(self) -> Iterator[tuple[str, Inclusion]]:
        """The proof of each own contribution, by its digest."""
        for digest, own in self.own.items():
            yield (
                digest,
                Inclusion(
                    checkpoint=self.checkpoint,
                    entry=own.entry.to_bytes().decode(),
                    envelope=own.envelope.decode("ascii"),
                    proof=tuple(each.hex() for each in self._tree.inclusion(own.entry.sequence - 1)),
                ),
            )

    def of(self, only: str | None) -> dict[str, Own]:
        """Own contributions, of one run or of all."""
        return {digest: own for digest, own in self.own.items() if only in (None, own.said.run)}

    def _see(self, line: Line) -> None:
        kind, value = line
        if kind == "blob":
            self._blob = value
        elif kind == "checkpoint":
            self.checkpoint = value
        else:
            self._tree.add(tree.leaf_hash(value.to_bytes()))
            self.at = value.at
            self._entry(value)
            self._blob = b""

    def _entry(self, entry: Entry) -> None:
        named = file.NAMED.get(entry.type)
        if named == CONTRIBUTION:
            self._contribution(entry)
        elif entry.type == "base-attested":
            said = Envelope.from_bytes(self._blob).unverified(Attestation)
            self._run(entry).attested.setdefault(said.state, set()).add(said.member)
        elif entry.type == "key-certified":
            event = consortium_event(entry)
            if isinstance(event, KeyCertified):
                data = event.envelope.encode()
                if Envelope.from_bytes(data).unverified(KeyCertificate).node == self.node:
                    self.certificates[event.key_id] = data
        elif entry.type in _OF_RUNS:
            self._of_run(entry)

    def _contribution(self, entry: Entry) -> None:
        said = Envelope.from_bytes(self._blob).unverified(Contribution)
        digest = canonical.sha256(self._blob)
        self._tokens[digest] = said.tokens
        if said.node == self.node:
            self.own.setdefault(digest, Own(said, digest, entry, self._blob))

    def _of_run(self, entry: Entry) -> None:
        event, run = ev.parse_event(entry.type, entry.body), self._run(entry)
        match event:
            case ev.RunPlanned():
                run.plans[event.plan.digest] = event.plan
                run.newest = event.plan.initial_state
                before = event.plan.merges_before, event.plan.rounds_before
                run.heads[run.newest] = Head(*before, None, entry.sequence)
            case ev.PlanRevised():
                run.plans[event.plan.digest] = event.plan
            case ev.RoundOpened():
                run.in_force[event.round] = event.plan
            case ev.RoundClosed():
                new = [each for each in event.merged if each.contribution not in run.merged]
                run.merged.update(each.contribution for each in new)
                run.members.update(each.member for each in event.merged)
                run.tokens += sum(self._tokens.get(each.contribution, 0) for each in new)
            case ev.RoundCommitted():
                run.newest = event.state
                run.heads[event.state] = Head(event.merges, event.round, event.base, entry.sequence)
            case ev.NodeEnrolled():
                run.enrolled.add(event.node)
            case ev.NodeWithdrawn():
                run.enrolled.discard(event.node)
            case ev.RunFinished():
                run.finished = True

    def _run(self, entry: Entry) -> RunRecord:
        return self.runs.setdefault(entry.scope, RunRecord())


_OF_RUNS: Final = frozenset(
    (
        *("run-planned", "plan-revised", "run-finished", "node-enrolled", "node-withdrawn"),
        *("round-opened", "round-closed", "round-committed"),
    )
)
