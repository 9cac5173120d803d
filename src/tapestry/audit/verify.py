"""Goes through a ledger from its first entry and holds each against what must follow from those before.

The rules of a run are a pure state machine, so its log can be repeated: from each entry the input is taken
that led to it, and what the machine makes of that must be the entries that stand there, to the byte. Quorums,
deadlines, weights and caps are checked by that. Keys are judged as of the position of what they have signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tapestry.audit.file import Line
from tapestry.errors import FormatError, IntegrityError, SignatureError, TapestryError
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import KeyRing, open_join
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import (
    CONSORTIUM,
    Entry,
    Founded,
    KeyCertified,
    KeyRevoked,
    MemberAdmitted,
    consortium_event,
)
from tapestry.protocol import canonical
from tapestry.protocol.clock import parse_time
from tapestry.protocol.messages import Contribution
from tapestry.rounds import events as ev
from tapestry.rounds import machine
from tapestry.rounds.inputs import Contribute, Input
from tapestry.rounds.state import RunState

FOLLOWING: Final = (ev.RoundOpened, ev.RoundClosed, ev.RoundWidened, ev.RunFinished)
"""Events that follow from the state and the time, not from an input of their own."""


@dataclass
class Found:
    """What a verification has seen."""

    consortium: str = ""
    entries: int = 0
    members: int = 0
    contributions: int = 0
    merges: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    """Each run with its newest state."""
    root: str = ""


class Verifier:
    """Takes the lines of a ledger one after the other. Memory does not grow with their number, but for blobs
    that no entry has named yet.

    Args:
        told: hears of every entry that holds.
    """

    def __init__(self, told: Callable[[int], None] = lambda _: None) -> None:
        self.found = Found()
        self._told = told
        self._core_key = ""
        self._ring = KeyRing()
        self._states: dict[str, RunState] = {}
        self._due: dict[str, list[ev.Event]] = {}
        """By run: events that must come next."""
        self._due_at: dict[str, str] = {}
        self._blobs: dict[str, bytes] = {}
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._ended = False

    def take(self, lines: Iterable[Line]) -> Found:
        """All lines of a ledger.

        Raises:
            IntegrityError: what does not hold, with the number of its entry. A subclass says of which kind.
        """
        for kind, value in lines:
            if self._ended:
                raise FormatError("the ledger goes on after its checkpoint")
            if kind == "blob":
                self._blobs[canonical.sha256(value)] = value
            elif kind == "entry":
                self._entry(value)
            else:
                self._checkpoint(value)
        if not self._ended:
            raise FormatError("the ledger ends without a checkpoint; it was cut off")
        return self.found

    def _entry(self, entry: Entry) -> None:
        if entry.sequence != self.found.entries + 1:
            raise IntegrityError(f"after entry {self.found.entries} comes entry {entry.sequence}")
        try:
            if entry.scope == CONSORTIUM:
                self._no_more_due(CONSORTIUM)
                self._of_consortium(entry)
            else:
                self._of_run(entry)
        except TapestryError as e:
            kind = type(e) if isinstance(e, IntegrityError) else IntegrityError
            raise kind(f"entry {entry.sequence}: {e.message}") from e
        for level, index, found in tree.new_nodes(
            self.found.entries, tree.leaf_hash(entry.to_bytes()), lambda *at: self._nodes[at]
        ):
            self._nodes[level, index] = found
        self.found.entries += 1
        # Later hashes are made of the peaks alone.
        self._nodes = {at: self._nodes[at] for at in tree.peaks(0, self.found.entries)}
        self._told(self.found.entries)

    # -- members and keys -----------------------------------------------------------------------

    def _of_consortium(self, entry: Entry) -> None:
        event = consortium_event(entry)
        if isinstance(event, Founded) != (entry.sequence == 1):
            raise IntegrityError("a ledger begins with its founding, and is founded once")
        match event:
            case Founded():
                self._core_key = event.core_key
                self.found.consortium = entry.digest
            case MemberAdmitted():
                join = open_join(Envelope.from_bytes(event.envelope.encode()), self.found.consortium)
                if (join.member, join.root_key) != (event.member, event.root_key):
                    raise IntegrityError(f"member {event.member} asked to join as something else")
                before_it = self._ring
                self._ring = before_it.admit(event.member, event.root_key, sequence=entry.sequence)
                if self._ring is before_it:
                    raise IntegrityError(f"member {event.member} was admitted before")
                self.found.members += 1
            case KeyCertified():
                envelope = Envelope.from_bytes(event.envelope.encode())
                before, at = set(self._ring.keys), entry.at
                self._ring = self._ring.certify(envelope, sequence=entry.sequence, at=at)
                self._changed(set(self._ring.keys) - before, event.key_id, event.member)
            case KeyRevoked():
                envelope = Envelope.from_bytes(event.envelope.encode())
                old = self._ring
                self._ring = old.revoke(envelope, sequence=entry.sequence)
                ended = {name for name, key in self._ring.keys.items() if key != old.keys.get(name)}
                self._changed(ended, event.key_id, event.member)

    def _changed(self, names: set[str], named: str, member: str) -> None:
        if names != {named} or self._ring.keys[named].certificate.member != member:
            raise IntegrityError(f"the envelope is not about key {named[:16]} of member {member}")

    # -- runs -------------------------------------------------------------------------------------

    def _of_run(self, entry: Entry) -> None:
        event = ev.parse_event(entry.type, entry.body)
        due = self._due.get(entry.scope)
        if not due:
            self._no_more_due(entry.scope)
            due = self._due[entry.scope] = self._expected(entry, event)
            self._due_at[entry.scope] = entry.at
        expected = due.pop(0)
        if event != expected or entry.at != self._due_at[entry.scope]:
            raise IntegrityError(f"by the rules comes {expected.type}, the ledger has another {event.type}")
        if isinstance(event, ev.RoundCommitted):
            self.found.merges += 1
            self.found.runs[entry.scope] = event.state

    def _no_more_due(self, scope: str) -> None:
        """What one input led to stands together."""
        for run, due in self._due.items():
            if due and run != scope:
                raise IntegrityError(f"after what came before, run {run} must have {due[0].type}")

    def _expected(self, entry: Entry, event: ev.Event) -> list[ev.Event]:
        """What the machine makes of the input that led to an event."""
        state = self._states.get(entry.scope)
        now_ms = round(parse_time(entry.at).timestamp() * 1000)
        if isinstance(event, ev.RunPlanned):
            if state is not None or event.plan.run != entry.scope:
                raise IntegrityError(f"run {event.plan.run} cannot be planned here")
            self.found.runs[entry.scope] = event.plan.initial_state
            step = machine.plan_run(event.plan)
        elif state is None:
            raise IntegrityError(f"run {entry.scope} was never planned")
        else:
            step = machine.step(state, self._input(entry, event, state), now_ms)
        if not step.events:
            raise IntegrityError(f"by the rules nothing follows here, the ledger has {event.type}")
        self._states[entry.scope] = step.state
        return list(step.events)

    def _input(self, entry: Entry, event: ev.Event, state: RunState) -> Input:
        """What was put to the run; the rest of the event must then follow from it."""
        plain: dict[str, Any] = {
            name: getattr(event, name)
            for name in ("round", "fragment", "node", "contribution")
            if hasattr(event, name)
        }
        match event:
            case ev.RunStarted():
                return machine.Start()
            case ev.PlanRevised():
                return machine.Revise(plan=event.plan)
            case ev.NodeEnrolled():
                holders = (key.certificate for key in self._ring.keys.values())
                if (event.member, event.node) not in {(each.member, each.node) for each in holders}:
                    raise IntegrityError(f"member {event.member} has no key for node {event.node}")
                plan = (state.next_plan or state.plan).digest
                return machine.Enrol(node=event.node, member=event.member, plan=plan)
            case ev.NodeWithdrawn():
                return machine.Withdraw(node=event.node, reason=event.reason)
            case ev.ContributionReceived() | ev.ContributionLate():
                return self._contribution(entry, event)
            case ev.ContributionAccepted():
                return machine.Screened(**plain, reason=None)
            case ev.ContributionRefused():
                return machine.Screened(**plain, reason=event.reason)
            case ev.RoundCommitted():
                return machine.MergeDone(
                    round=event.round,
                    fragment=event.fragment,
                    state=event.state,
                    base=event.base,
                    outer=event.outer,
                )
            case ev.RoundAbandoned() if event.reason != "below-quorum":
                return machine.MergeFailed(
                    round=event.round, fragment=event.fragment, reason=event.reason, detail=event.detail
                )
            case ev.ScorePublished():
                fields = event.model_dump(exclude={"type"})
                return machine.Publish(**fields)
            case _:
                return machine.Tick()

    def _contribution(self, entry: Entry, event: ev.ContributionReceived | ev.ContributionLate) -> Contribute:
        """From the signed envelope, whose key must be valid here."""
        data = self._blobs.pop(event.contribution, None)
        if data is None:
            raise IntegrityError(
                f"the envelope of the contribution of {event.node} is not in the ledger's file"
            )
        envelope = Envelope.from_bytes(data)
        said, _ = self._ring.verify(envelope, Contribution, at=entry.at, sequence=entry.sequence)
        if (said.consortium, said.run) != (self.found.consortium, entry.scope):
            raise IntegrityError(f"the contribution of {said.node} is for another run or consortium")
        self.found.contributions += 1
        return Contribute(
            round=said.round,
            fragment=said.fragment,
            node=said.node,
            member=said.member,
            plan=said.plan,
            state=said.state,
            contribution=envelope.digest,
            delta=said.delta,
            tokens=said.tokens,
            steps=said.steps,
        )

    # -- the end ----------------------------------------------------------------------------------

    def _checkpoint(self, text: str) -> None:
        self._ended = True
        self._no_more_due("")
        note = Note.from_bytes(text.encode())
        origin = origin_of(self.found.consortium)
        try:
            note.check(origin, self._core_key)
        except SignatureError as e:
            raise IntegrityError(f"the ledger's checkpoint: {e.message}") from e
        said = Checkpoint.parse(note.text)
        root = tree.root(self.found.entries, lambda *at: self._nodes[at])
        if (said.origin, said.size, said.root) != (origin, self.found.entries, root):
            raise IntegrityError(
                f"the core has signed another tree of {said.size} entries than these "
                f"{self.found.entries} make"
            )
        self.found.root = root.hex()
