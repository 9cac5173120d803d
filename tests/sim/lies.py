"""A core that lies: to one node about a round, to all about a merge, or about what it has taken in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.core.proofs import Proofs
from tapestry.core.runs import Runs
from tapestry.core.views import round_record
from tapestry.errors import NotFound
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import Entry, make_entry
from tapestry.protocol.artifact import State
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import parse_time, time_text
from tapestry.protocol.messages import Attestation, Contribution, Receipt
from tapestry.protocol.plan import Plan, Witness
from tapestry.protocol.views import RoundRecord, RunView
from tapestry.rounds import machine
from tests.sim import toy
from tests.sim.net import Reply, Wire
from tests.sim.setting import key_of, member_of

if TYPE_CHECKING:
    from tests.sim.bugs.kind import Places
    from tests.sim.world import World

FAR_S: Final = 27.0
"""So long takes the first round of a run that abandons some."""
WAIT_S: Final = 2.0
"""So seldom is a node answered that is shown a ledger which does not go on."""


def root_of(entries: Sequence[bytes]) -> bytes:
    """Of the tree over them."""
    return tree.Tree(map(tree.leaf_hash, entries)).root()


def signed_head(consortium: str, entries: Sequence[bytes]) -> str:
    """A head as the core signs it."""
    origin = origin_of(consortium)
    note = Note(Checkpoint(origin, len(entries), root_of(entries)).text)
    return note.signed(origin, key_of("core")).to_bytes().decode()


@dataclass
class Liar:
    """A core that shows one node another history than it recorded: of one round that was just committed, in
    the ledger as in the round's record, and signs that.

    Args:
        world: whose core it is.
        victim: the node.
        forge: changes a record; returns None where this lie cannot be told of it.
    """

    world: World
    victim: str
    forge: Forge

    def __post_init__(self) -> None:
        self.attested = False
        """Says that others have attested what it forged."""
        self.signs = True
        self._record: RoundRecord | None = None
        self._ledger: list[bytes] = []
        """Entries that the victim is shown."""
        self._lines: dict[int, list[file.Line]] = {}
        """By sequence: of entries that it has made, with their envelopes."""
        self._blobs: dict[str, bytes] = {}

    def places(self) -> Places:
        return {}

    def __call__(self, wire: Wire, reply: Reply) -> Reply:
        if wire.sender != self.victim or reply.status_code != 200:
            return reply
        if wire.path == "/v1/ledger":
            return self._tell(reply, int(wire.query.partition("after=")[2] or 0))
        if self._record is None:
            return reply
        if wire.path == f"/v1/runs/{toy.RUN}" and wire.method == "GET":
            self.world.scheduler.wait(WAIT_S)
            view = RunView.from_bytes(reply.body)
            newest = min(view.sequence, len(self._ledger))
            return _with(reply, view.model_copy(update={"sequence": newest}).to_bytes())
        if wire.path == f"/v1/runs/{toy.RUN}/rounds/{self._record.round}":
            return _with(reply, self._record.to_bytes())
        return reply

    def blob(self, wire: Wire) -> Reply | None:
        """What it gives for an address that only its lies name."""
        data = self._blobs.get(wire.path.rpartition("/")[2]) if wire.sender == self.victim else None
        return None if data is None or wire.method != "GET" else _with(Reply(200, httpx.Headers(), b""), data)

    def _tell(self, reply: Reply, after: int) -> Reply:
        if self._record is None and not self._forged(after):
            return reply
        lines: list[file.Line] = []
        for sequence in range(after + 1, len(self._ledger) + 1):
            lines += self._lines[sequence]
        entries = self._ledger if self.signs else self.world.observer.entries[: len(self._ledger)]
        lines.append(("checkpoint", signed_head(self.world.consortium, entries)))
        return _with(reply, b"".join(map(file.encode, lines)))

    def _forged(self, after: int) -> bool:
        """Forge the first merge that the victim has not heard of; whether that could be done."""
        core = self.world.core.core
        if core is None:
            return False
        verifier, every, blobs = Verifier(), list[bytes](), list[file.Line]()
        for line in Proofs(core.journal, core.consortium).lines(core.store):
            if line[0] == "entry":
                entry: Entry = line[1]
                if entry.sequence > after and entry.type == "round-committed":
                    return self._forge_commit(verifier, every, entry)
                every.append(entry.to_bytes())
                self._lines[entry.sequence] = [*blobs, line]
                blobs = []
            elif line[0] == "blob":
                blobs.append(line)
            verifier.line(line)
        return False

    def _forge_commit(self, verifier: Verifier, every: list[bytes], committed: Entry) -> bool:
        core = self.world.core.core
        assert core is not None
        try:
            record = round_record(core.journal, core.store, toy.RUN, committed.body["round"])
        except NotFound:
            return False
        made = self.forge(self, record)
        if made is None:
            return False
        self._record, state = made
        self._ledger = every
        self._reclosed(made[0])
        run = verifier.state(toy.RUN)
        assert run is not None
        true = State.from_bytes(self._blobs[state])
        done = machine.MergeDone(
            round=record.round, fragment=0, state=state, base=true.base, outer=true.outer
        )
        run = self._add(run, done, committed.at, [])
        for node in sorted(run.enrolled) if self.attested else ():
            given, envelope = self._attestation(run, node)
            run = self._add(run, given, committed.at, [("blob", envelope)])
        self.world.observer.forged.add(state)
        if self.signs:
            self.world.bases.shown_another(self.victim)
        self.world.scheduler.say(f"the core shows {self.victim} {state[:12]} after round {record.round}")
        return True

    def _reclosed(self, record: RoundRecord) -> None:
        """Have the ledger close the round with what the record says."""
        for sequence in range(len(self._ledger), 0, -1):
            entry = Entry.from_bytes(self._ledger[sequence - 1])
            if entry.type == "round-closed" and entry.body["round"] == record.round:
                body = {**entry.body, "merged": [m.model_dump(mode="json") for m in record.merged]}
                changed = entry.model_copy(update={"body": body})
                self._ledger[sequence - 1] = changed.to_bytes()
                self._lines[sequence] = [("entry", changed)]

    def _add(
        self, run: machine.RunState, given: machine.Input, at: str, blobs: list[file.Line]
    ) -> machine.RunState:
        step = machine.step(run, given, round(parse_time(at).timestamp() * 1000))
        for event in step.events:
            entry = make_entry(len(self._ledger) + 1, at, toy.RUN, event)
            self._ledger.append(entry.to_bytes())
            self._lines[entry.sequence] = [*blobs, ("entry", entry)]
            blobs = []
        return step.state

    def _attestation(self, run: machine.RunState, node: str) -> tuple[machine.Attest, bytes]:
        """As a node would sign it, by a key that is not its own."""
        said = Attestation(
            consortium=self.world.consortium,
            run=toy.RUN,
            member=member_of(node),
            node=node,
            round=run.head_round,
            merges=run.merges,
            state=run.head,
            size=len(self._ledger),
            root=root_of(self._ledger).hex(),
            cosignature="A" * 102 + "==",
        )
        fake = sign(said, key_of("nobody"))
        named = fake.signatures[0].model_copy(update={"keyid": key_of(f"{node} witness").key_id})
        envelope = fake.model_copy(update={"signatures": (named,)})
        return machine.Attest.of(said, envelope.digest), envelope.to_bytes()

    # -- what forgers need ------------------------------------------------------------------------

    def merge(self, record: RoundRecord, deltas: list[tuple[int, toy.Numbers]], *, off: bool = False) -> str:
        """The state that other deltas or weights would give, with its blobs."""
        merges, base, momentum = self.world.observer.reference.known(record.before)
        new, outer = toy.merged(base, momentum, deltas)
        if off:
            new = toy.next_after(new)
        made = toy.make("base", new), toy.make("outer", outer)
        state = State(
            run=toy.RUN,
            model=toy.MODEL.digest,
            merges=merges + 1,
            base=made[0].digest,
            outer=made[1].digest,
        )
        self.keep(*made[0].blobs, *made[1].blobs, state.to_bytes())
        return state.digest

    def keep(self, *blobs: bytes) -> None:
        self._blobs |= {sha256(data): data for data in blobs}

    def deltas(self, record: RoundRecord) -> list[tuple[int, toy.Numbers]]:
        return list(self.world.observer.rounds[record.round].deltas)


Forge = Callable[[Liar, RoundRecord], "tuple[RoundRecord, str] | None"]


def off_by_one(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """One number of the base is the next that 32 bits can hold."""
    state = liar.merge(record, liar.deltas(record), off=True)
    return record.model_copy(update={"after": state}), state


def other_weights(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """A little of one member's weight is another's."""
    if len(record.merged) < 2:
        return None
    first, second, *rest = record.merged
    moved = (
        first.model_copy(update={"weight": first.weight - 1000}),
        second.model_copy(update={"weight": second.weight + 1000}),
    )
    deltas = [
        (merged.weight, values)
        for merged, (_, values) in zip((*moved, *rest), liar.deltas(record), strict=True)
    ]
    state = liar.merge(record, deltas)
    return record.model_copy(update={"merged": (*moved, *rest), "after": state}), state


def false_witnesses(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """As `off_by_one`, and every other member is said to have attested it."""
    liar.attested = True
    return off_by_one(liar, record)


def unsigned(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """As `off_by_one`, by somebody on the way who has not the core's key: under heads of the true ledger."""
    liar.signs = False
    return off_by_one(liar, record)


def made_up(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """A contribution that its node never made, under a signature that is not its own."""
    merged = record.merged[0]
    made = toy.make("delta", (9.0, 9.0, 9.0, 9.0))
    liar.keep(*made.blobs)
    said = Envelope.from_bytes(record.envelopes[0].encode()).unverified(Contribution)
    said = said.model_copy(update={"delta": made.digest})
    real = Envelope.from_bytes(record.envelopes[0].encode())
    fake = sign(said, key_of("nobody"))
    named = fake.signatures[0].model_copy(update={"keyid": real.signatures[0].keyid})
    envelope = fake.model_copy(update={"signatures": (named,)})
    put = merged.model_copy(update={"delta": made.digest, "contribution": envelope.digest})
    liar.keep(envelope.to_bytes())
    deltas = liar.deltas(record)
    state = liar.merge(record, [(merged.weight, (9.0, 9.0, 9.0, 9.0)), *deltas[1:]])
    return (
        record.model_copy(
            update={
                "merged": (put, *record.merged[1:]),
                "envelopes": (envelope.to_bytes().decode(), *record.envelopes[1:]),
                "after": state,
            }
        ),
        state,
    )


def other_bytes(liar: Liar, record: RoundRecord) -> tuple[RoundRecord, str] | None:
    """The record names another delta than the node signed."""
    made = toy.make("delta", (5.0, 5.0, 5.0, 5.0))
    liar.keep(*made.blobs)
    put = record.merged[0].model_copy(update={"delta": made.digest})
    state = liar.merge(record, [(put.weight, (5.0, 5.0, 5.0, 5.0)), *liar.deltas(record)[1:]])
    return record.model_copy(update={"merged": (put, *record.merged[1:]), "after": state}), state


@dataclass
class Dropper:
    """A core that receipts what one node hands in, and records nothing of it."""

    world: World
    victim: str

    def places(self) -> Places:
        contribute = Runs.contribute

        def dropping(runs: Runs, run: str, envelope: Envelope, by: Any) -> Any:
            said = runs._opened(envelope, Contribution, run, by)
            if said.node != self.victim or runs.standing(run).state.current is None:
                return contribute(runs, run, envelope, by)
            self.world.observer.dropped.add(envelope.digest)
            self.world.scheduler.say(f"the core drops what {said.node} hands in")
            receipt = Receipt(
                consortium=runs.consortium.id,
                run=run,
                round=said.round,
                fragment=0,
                node=said.node,
                contribution=envelope.digest,
                sequence=runs.standing(run).sequence,
                received_at=time_text(runs.journal.now_ms()),
                decided_by=time_text(runs.journal.now_ms()),
            )
            return sign(receipt, runs.consortium.core_key)

        return {(Runs, "contribute"): dropping}

    def __call__(self, wire: Wire, reply: Reply) -> Reply:
        return reply

    def blob(self, wire: Wire) -> Reply | None:
        return None


FORGERS: Final[dict[str, Forge]] = {
    forge.__name__: forge
    for forge in (off_by_one, other_weights, made_up, other_bytes, false_witnesses, unsigned)
}
LIES: Final = (*FORGERS, "far", "crooked", "dropped")
"""`far`: as `off_by_one`, to a node one merge behind, with abandoned rounds in between; `crooked`: to all, a
merge is off by the least there is; `dropped`: what was receipted is not recorded."""


def tell(world: World, lie: str) -> Plan:
    """Have the core lie; the plan as it must be for that."""
    plan, rng = world.plan, world.rng
    quorum = Witness(quorum=max(1, plan.witness.quorum))
    if lie == "crooked":
        world.observer.crooked = 1 + int(rng.random() * plan.rounds.total)
        return plan.model_copy(update={"witness": quorum})
    if lie == "dropped":
        world.network.liar = Dropper(world, world.misled)
        return plan
    world.network.liar = Liar(world, world.misled, FORGERS.get(lie, off_by_one))
    if lie == "far":
        world.first_s = FAR_S
        rounds = plan.rounds.model_copy(update={"below_quorum": "abandon", "deadline_s": 7.0, "staleness": 0})
        kept = plan.retention.model_copy(update={"blob_rounds": 1})
        return plan.model_copy(update={"rounds": rounds, "retention": kept})
    return plan.model_copy(update={"witness": quorum}) if lie == "false_witnesses" else plan


def _with(reply: Reply, body: bytes) -> Reply:
    headers = httpx.Headers({**reply.headers, "content-length": str(len(body))})
    return Reply(200, headers, body)
