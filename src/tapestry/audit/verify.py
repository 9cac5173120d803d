"""Goes through a ledger from its first entry and holds each against what must follow from those before.

The rules of a run are a pure state machine, so its log can be repeated: from each entry the input is taken
that led to it, and what the machine makes of that must be the entries that stand there, to the byte. Quorums,
deadlines, weights and caps are checked by that. Keys are judged as of the position of what they have signed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar

from tapestry.audit import members
from tapestry.audit.file import Line
from tapestry.audit.governance import nothing_overdue, repeated
from tapestry.audit.heads import signed_checkpoint, tree_of
from tapestry.audit.inputs import unsigned
from tapestry.audit.members import Here
from tapestry.errors import Fork, FormatError, IntegrityError, SignatureError, TapestryError
from tapestry.governance.contributions import MAX_MERGES, amounts, weights
from tapestry.governance.effects import permit
from tapestry.governance.machine import may_join
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import NODE_ONLY, WITNESS_ONLY, KeyRing, Role
from tapestry.ledger import tree
from tapestry.ledger.entries import CONSORTIUM, Entry, Founded, Governed, MemberAdmitted, consortium_event
from tapestry.protocol import canonical
from tapestry.protocol.clock import parse_time
from tapestry.protocol.message import Part
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Merged, Score
from tapestry.protocol.plan import Plan
from tapestry.rounds import events as ev
from tapestry.rounds import machine
from tapestry.rounds.inputs import Attest, Contribute, Enrol, Input, Publish
from tapestry.rounds.state import RunState

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Times in events are milliseconds since then."""
M = TypeVar("M", Attestation, Contribution, Enrolment, Score)


@dataclass
class Found:
    """What a verification has seen."""

    consortium: str = ""
    entries: int = 0
    members: int = 0
    contributions: int = 0
    attestations: int = 0
    merges: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    """Each run with its newest state."""
    root: str = ""


class Verifier:
    """Takes the lines of a ledger one after the other. Of each entry it keeps 32 bytes, the root of the tree
    that ends with it; of blobs those that no entry has named yet.

    Args:
        told: hears of every entry that holds.
    """

    def __init__(self, told: Callable[[int], None] = lambda _: None) -> None:
        self.found = Found()
        self._told = told
        self._founding_key = ""
        self._assembly = Assembly()
        self._states: dict[str, RunState] = {}
        self._due: dict[str, list[ev.Event]] = {}
        """By run: events that must come next."""
        self._due_at: dict[str, str] = {}
        self._blobs: dict[str, bytes] = {}
        self._tree = tree.Frontier()
        self._newest: dict[str, int] = {}
        """By run: position of its newest entry."""
        self._committed: dict[str, int] = {}
        """By run: position of the entry that commits its newest merge."""
        self._opened: set[tuple[str, int, str, str, int]] | None = set()
        """Run, round, state, plan and merges of every round; None where the first entries were taken another
        time."""
        self._merges: deque[Mapping[str, int]] = deque(maxlen=MAX_MERGES)
        """Weights by member, since votes go by contribution; nothing where they do not."""
        self.roots = bytearray()
        """Roots of the trees of 1, 2, ... entries."""
        self.leaf = b""
        """Hash of the entry that was taken last."""
        self._merging: tuple[Merged, ...] = ()
        """What is in the merge that is committed next."""
        self._signer = ""
        """Name of the key that has signed the envelope which was opened last."""
        self._ended = False

    def take(self, lines: Iterable[Line]) -> Found:
        """All lines of a ledger.

        Raises:
            IntegrityError: what does not hold, with the number of its entry. A subclass says of which kind.
        """
        for line in lines:
            if self._ended:
                raise FormatError("the ledger goes on after its checkpoint")
            self.line(line)
            self._ended = line[0] == "checkpoint"
        if not self._ended:
            raise FormatError("the ledger ends without a checkpoint; it was cut off")
        return self.found

    def line(self, line: Line) -> None:
        """The next line. Errors as of `take`."""
        kind, value = line
        if kind == "blob":
            self._blobs[canonical.sha256(value)] = value
        elif kind == "entry":
            self._entry(value)
        else:
            self._checkpoint(value)

    def root(self, size: int) -> bytes:
        """Of the tree of the first `size` entries, as far as they were taken. Raises `IndexError`."""
        if not 0 <= size <= self.found.entries:
            raise IndexError(f"{self.found.entries} entries were taken, not {size}")
        return bytes(self.roots[(size - 1) * tree.HASH_BYTES : size * tree.HASH_BYTES]) or tree.EMPTY

    def key_at(self, size: int | None = None) -> str:
        """The core's key: now, or that which signs for a ledger of `size` entries."""
        return self._assembly.ring.core_key(self._founding_key, size)

    @property
    def ring(self) -> KeyRing:
        """Members and keys."""
        return self._assembly.ring

    @property
    def assembly(self) -> Assembly:
        """Members, keys and what they have decided."""
        return self._assembly

    def state(self, run: str) -> RunState | None:
        """A run, as its entries leave it."""
        return self._states.get(run)

    def newest(self, run: str) -> int:
        """Position of a run's newest entry; 0 where it has none."""
        return self._newest.get(run, 0)

    def to_json(self) -> dict[str, Any]:
        """Where it stands, to go on from there another time; but for `roots`. Only between the entries of two
        inputs, as behind a checkpoint."""
        self._no_more_due("")
        return {
            "found": asdict(self.found),
            "core_key": self._founding_key,
            "ring": self._assembly.to_json(),
            "states": {run: state.model_dump(mode="json") for run, state in self._states.items()},
            "nodes": [[level, index, found.hex()] for (level, index), found in self._tree.nodes()],
            "committed": self._committed,
            "newest": self._newest,
            **({"merges": [dict(each) for each in self._merges]} if self._merges else {}),
        }

    def restore(self, value: dict[str, Any], roots: bytes) -> None:
        """Stand where `to_json` was taken. It is believed: nobody else may write where it is kept. Raises
        `FormatError`."""
        try:
            self.found = Found(**value["found"])
            self._founding_key = value["core_key"]
            self._assembly = Assembly.from_json(value["ring"])
            self._states = {
                run: RunState.from_bytes(canonical.encode(state)) for run, state in value["states"].items()
            }
            nodes = (((level, index), bytes.fromhex(found)) for level, index, found in value["nodes"])
            self._tree = tree.Frontier(self.found.entries, nodes)
            self._committed, self._newest = dict(value["committed"]), dict(value["newest"])
            self._merges.extend(value.get("merges", ()))
            expected = self.found.entries * tree.HASH_BYTES
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            raise FormatError(f"this is not where a verification stood: {e}") from e
        if len(roots) != expected:
            raise FormatError("there is not one root for each entry")
        self.roots = bytearray(roots)
        self._opened = None

    def committed(self, run: str) -> int | None:
        """Position of the entry that commits a run's newest merge."""
        return self._committed.get(run)

    def _entry(self, entry: Entry) -> None:
        if entry.sequence != self.found.entries + 1:
            raise IntegrityError(f"after entry {self.found.entries} comes entry {entry.sequence}")
        try:
            if parse_time(entry.at) < EPOCH:
                raise IntegrityError(f"its time {entry.at} is before 1970")
            nothing_overdue(self._assembly, entry)
            if entry.scope == CONSORTIUM:
                self._no_more_due(CONSORTIUM)
                self._of_consortium(entry)
            else:
                self._of_run(entry)
        except Fork as e:
            raise Fork(f"entry {entry.sequence}: {e.message}", seen=e.seen) from e
        except TapestryError as e:
            kind = type(e) if isinstance(e, IntegrityError) else IntegrityError
            raise kind(f"entry {entry.sequence}: {e.message}") from e
        if self._blobs:
            raise IntegrityError(f"entry {entry.sequence} follows an envelope that it does not name")
        self._add(tree.leaf_hash(entry.to_bytes()))

    def _add(self, leaf: bytes) -> None:
        """The next leaf of the tree, whose entry holds."""
        self.leaf = leaf
        self.roots += self._tree.add(leaf)
        self.found.entries += 1
        self._told(self.found.entries)

    # -- members, keys and decisions --------------------------------------------------------------

    def _of_consortium(self, entry: Entry) -> None:
        event = consortium_event(entry)
        if not _says(entry, event):
            raise IntegrityError(f"it does not state a {entry.type} as it is written")
        if isinstance(event, Founded) != (entry.sequence == 1):
            raise IntegrityError("a ledger begins with its founding, and is founded once")
        if isinstance(event, Founded):
            self._founding_key = event.core_key
            self.found.consortium = entry.digest
        elif isinstance(event, Governed):
            since = self._assembly.governance.counted_from
            self._assembly = repeated(self._assembly, entry, event, self.found.consortium, self._contributed)
            if self._assembly.governance.counted_from != since:
                self._merges.clear()
        else:
            here = Here(consortium=self.found.consortium, root=self.root(self.found.entries).hex())
            if isinstance(event, MemberAdmitted):
                may_join(self._assembly, event.member)
                self.found.members += 1
            ring = members.changed(self._assembly.ring, entry, event, here)
            self._assembly = replace(self._assembly, ring=ring)

    def _contributed(self, measure: str, window: int, _since: int) -> Counter[str]:
        """By member, in the last so many merges since votes go by contribution."""
        return amounts(measure, islice(reversed(self._merges), window))

    # -- runs -------------------------------------------------------------------------------------

    def _of_run(self, entry: Entry) -> None:
        due = self._due.get(entry.scope)
        if not due:
            self._no_more_due(entry.scope)
            due = self._expected(entry, ev.parse_event(entry.type, entry.body))
            self._due[entry.scope] = due
            self._due_at[entry.scope] = entry.at
        expected = due.pop(0)
        if not _says(entry, expected) or entry.at != self._due_at[entry.scope]:
            raise IntegrityError(f"by the rules comes {expected.type}, the ledger has another {entry.type}")
        if isinstance(expected, ev.RoundCommitted):
            if self._assembly.governance.counted_from is not None:
                self._merges.append(weights(self._merging))
            self._committed[entry.scope] = entry.sequence
            self.found.merges += 1
            self.found.runs[entry.scope] = expected.state

    def _check_origin(self, plan: Plan) -> None:
        """What a run repeats is in this ledger. Where the verification was taken up again in the middle,
        whoever keeps the entries looks there."""
        origin = plan.origin
        if origin is None or self._opened is None:
            return
        repeated = origin.run, origin.round + 1, plan.initial_state, origin.plan, origin.merges
        if repeated not in self._opened:
            raise IntegrityError(
                f"run {plan.run} repeats run {origin.run} from a round {origin.round + 1} that is not there"
            )

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
            self._check_origin(event.plan)
            self.found.runs[entry.scope] = event.plan.initial_state
            step = machine.plan_run(event.plan)
        elif state is None:
            raise IntegrityError(f"run {entry.scope} was never planned")
        else:
            given = self._input(entry, event)
            permit(self._assembly, state, given, entry.at)
            if isinstance(given, machine.MergeDone):
                self._merging = next(
                    (each.merged for each in state.rounds if each.key == (given.round, given.fragment)), ()
                )
            step = machine.step(state, given, now_ms)
        if not step.events:
            raise IntegrityError(f"by the rules nothing follows here, the ledger has {event.type}")
        for each in step.events:
            if isinstance(each, ev.RoundOpened) and self._opened is not None:
                self._opened.add((entry.scope, each.round, each.state, each.plan, step.state.merges))
        self._states[entry.scope] = step.state
        self._newest[entry.scope] = entry.sequence + len(step.events) - 1
        return list(step.events)

    def _input(self, entry: Entry, event: ev.Event) -> Input:
        """What was put to the run; the rest of the event must then follow from it."""
        match event:
            case ev.NodeEnrolled():
                return Enrol.of(self._said(entry, event.enrolment, Enrolment), event.enrolment)
            case ev.ContributionReceived() | ev.ContributionCommitted() | ev.ContributionLate():
                return self._contribution(entry, event)
            case ev.BaseAttested():
                return self._attestation(entry, event)
            case ev.ScorePublished():
                return Publish.of(self._said(entry, event.score, Score), event.score)
            case _:
                return unsigned(event)

    def _contribution(self, entry: Entry, event: ev.Handed | ev.ContributionLate) -> Contribute:
        said = self._said(entry, event.contribution, Contribution)
        if said.checkpoint is not None:
            seen = signed_checkpoint(said.checkpoint, self.found.consortium, self.key_at)
            if seen.size > self.found.entries or seen.root != self.root(seen.size):
                raise Fork(
                    f"the core has signed another tree of {seen.size} entries for {said.node} than these",
                    seen=said.checkpoint,
                )
        self.found.contributions += 1
        return Contribute.of(said, event.contribution)

    def _attestation(self, entry: Entry, event: ev.BaseAttested) -> Attest:
        """Signed by a witness key, and for the very tree that these entries make."""
        said = self._said(entry, event.attestation, Attestation, roles=WITNESS_ONLY)
        tree_of(said, self._assembly.ring.keys[self._signer].certificate.public_key, self.found.consortium)
        committed = self._committed.get(entry.scope, 0)
        if (said.size, said.root) != (committed, self.root(committed).hex()):
            raise IntegrityError(f"node {said.node} has attested another ledger than this one")
        self.found.attestations += 1
        return Attest.of(said, event.attestation)

    def _said(self, entry: Entry, digest: str, kind: type[M], *, roles: Collection[Role] = NODE_ONLY) -> M:
        """What a signed envelope says, whose key must be valid here, about this run."""
        data = self._blobs.pop(digest, None)
        if data is None:
            raise IntegrityError(
                f"the envelope of {kind.format_name()} {digest[:12]} is not in the ledger's file"
            )
        envelope = Envelope.from_bytes(data)
        self._signer = envelope.signatures[0].keyid
        said, _ = self._assembly.ring.verify(
            envelope, kind, at=entry.at, sequence=entry.sequence, roles=roles
        )
        if (said.consortium, said.run) != (self.found.consortium, entry.scope):
            raise IntegrityError(f"{kind.format_name()} of {said.node} is for another run or consortium")
        return said

    # -- the end ----------------------------------------------------------------------------------

    def _checkpoint(self, text: str) -> None:
        self._no_more_due("")
        if self._blobs:
            raise IntegrityError("the ledger's checkpoint follows an envelope that no entry names")
        try:
            said = signed_checkpoint(text, self.found.consortium, self.key_at)
        except SignatureError as e:
            raise IntegrityError(f"the ledger's checkpoint: {e.message}") from e
        root = self.root(self.found.entries)
        if (said.size, said.root) != (self.found.entries, root):
            raise Fork(
                f"the core has signed another tree of {said.size} entries than these "
                f"{self.found.entries} make",
                seen=text,
            )
        self.found.root = root.hex()


def _says(entry: Entry, event: Part) -> bool:
    """Whether an entry is this event's, with every field stated: one meaning has one form."""
    body = event.model_dump(mode="json")
    return bool(body.pop("type") == entry.type and body == entry.body)
