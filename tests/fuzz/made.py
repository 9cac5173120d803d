"""Real objects of every kind, from which seeds are made. The same bytes in every process."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tapestry.audit.file import Line
from tapestry.audit.heads import cosignature
from tapestry.codec.shards import ShardCodec
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, Role, make_certificate, make_join, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger import tree
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.ledger.entries import (
    CONSORTIUM,
    CoreSucceeded,
    Entry,
    Founded,
    KeyCertified,
    KeyRevoked,
    MemberAdmitted,
    make_entry,
)
from tapestry.protocol.artifact import Artifact, Blob, Model, ModelFile, State
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import parse_time
from tapestry.protocol.encoding import Bf16, Codec, Fp4, Int8, TopK
from tapestry.protocol.layout import Layout, Shard, Tensor
from tapestry.protocol.message import Part
from tapestry.protocol.messages import (
    Attestation,
    Contribution,
    Enrolment,
    Merged,
    Progress,
    Receipt,
    Score,
    Succession,
    SuccessionRequest,
)
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds, Stage, Witness
from tapestry.protocol.views import Head, Hello, NodeStanding, OpenRound, RoundRecord, RunView
from tapestry.rounds import events as ev
from tapestry.rounds import machine
from tapestry.rounds.state import RunState

torch.set_num_threads(1)  # processes are forked, and a fork has no threads
AT = "2026-05-01T12:00:00.000Z"
FROM, UNTIL = "2026-01-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"
H = [sha256(b"%d" % n) for n in range(16)]
UNIT = 1 << 24


def key(name: str) -> KeyPair:
    """A key drawn from its name."""
    return KeyPair(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


ROOT, NODE, WITNESS, CORE, NEXT = key("root"), key("node"), key("witness"), key("core"), key("next core")
COSIGNED_S = 1_777_777_777
LAYOUT = Layout(
    shard_bytes=1 << 16,
    tensors=(
        Tensor(name="block.weight", shape=(130, 70)),
        Tensor(name="embed_tokens.weight", shape=(40, 24)),
        Tensor(name="norm.bias", shape=()),
        Tensor(name="norm.weight", shape=(300,)),
    ),
)
SHARD: Shard = LAYOUT.shards[0]
SPLIT = Layout(
    shard_bytes=4096,
    tensors=(Tensor(name="a", shape=(600, 4)), Tensor(name="b", shape=()), Tensor(name="c", shape=(50, 3))),
    fragments=(0, 1, 1),
)
FEW = TopK(keep=64, side=64, bits=2)
CODECS = {
    "fp32": Codec(),
    "bf16": Codec(matrices=Bf16(), embeddings=Bf16(), norms=Bf16()),
    "int8": Codec(matrices=Int8(), embeddings=Int8(), norms=Int8()),
    "fp4": Codec(matrices=Fp4(), embeddings=Fp4(), norms=Fp4()),
    "topk": Codec(matrices=FEW, embeddings=FEW, norms=FEW, error_feedback=0.95),
    "topk-wide": Codec(matrices=TopK(keep=5, side=8, bits=8), embeddings=TopK(keep=4096), norms=Int8()),
}


def values(seed: int, elements: int = SHARD.elements) -> torch.Tensor:
    """Finite values of many sizes, zeros among them."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.randn(elements, generator=draw) * torch.exp2(
        torch.randint(-20, 4, (elements,), generator=draw).float()
    )
    found[torch.rand(elements, generator=draw) < 0.2] = 0.0
    return found if seed % 4 != 3 else torch.zeros(elements)


@functools.cache
def encoded(codec: str, seed: int) -> bytes:
    """The shard as a codec writes it."""
    settings = CODECS[codec]
    if settings.plain:
        return SHARD.header + values(seed).numpy().tobytes()
    return ShardCodec(settings).encode_(SHARD, values(seed))


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run": "run",
        "model": H[1],
        "layout": LAYOUT.digest,
        "initial_state": H[2],
        "parameters": LAYOUT.elements,
        "rounds": Rounds(total=4, min_nodes=1, quorum=1, deadline_s=60.0),
        "inner": Inner(steps=10, schedule=(Stage(after_merges=2, steps=20),), paces={"slow": 0.5}),
        "merge": Merge(outer="sgd", outer_momentum=0.0),
        "codec": CODECS["topk"],
        "witness": Witness(quorum=1, members=("ada",)),
    }
    return Plan(**fields | changes)


PLAN = plan()
ARTIFACT = Artifact(
    kind="delta",
    layout=LAYOUT.digest,
    shards=(Blob(sha256=sha256(encoded("topk", 0)), bytes=len(encoded("topk", 0))),),
)
MODEL = Model(layout=LAYOUT.digest, files=(ModelFile(path="config.json", blob=Blob(sha256=H[3], bytes=10)),))
STATE = State(run="run", model=MODEL.digest, merges=3, base=H[4], outer=H[5])
PROGRESS = Progress(round=3, step=4, steps=10, loss=2.5, tokens_per_s=1000.5)


def contribution(consortium: str, **changes: Any) -> Contribution:
    fields: dict[str, Any] = {
        **{"consortium": consortium, "run": "run", "plan": PLAN.digest, "round": 1, "fragment": 0},
        **{"member": "ada", "node": "ada-1", "state": H[2], "delta": ARTIFACT.digest, "tokens": 20480},
        **{"steps": 10, "data_manifest": H[6], "environment": {"torch": "2.13.0"}, "nonce": "0" * 32},
    }
    return Contribution(**fields | changes)


def enrolment(consortium: str, **changes: Any) -> Enrolment:
    fields = {"run": "run", "plan": PLAN.digest, "member": "ada", "node": "ada-1"}
    return Enrolment(consortium=consortium, **fields | changes)


def score(consortium: str) -> Score:
    return Score(
        **{"consortium": consortium, "run": "run", "member": "ada", "node": "ada-1"},
        merges=1,
        state=H[7],
        bits_per_byte=2.25,
        bytes=4096,
    )


def attestation(consortium: str, head: Checkpoint, run: str = "run") -> Attestation:
    """That the first merge led to `H[7]`, and that `head` ends with its commit."""
    return Attestation(
        **{"consortium": consortium, "run": run, "member": "ada", "node": "ada-1", "round": 1, "merges": 1},
        state=H[7],
        size=head.size,
        root=head.root.hex(),
        cosignature=cosignature(head, "ada", "ada-1", WITNESS, COSIGNED_S),
    )


def succession(consortium: str, head: Checkpoint) -> Succession:
    return Succession(
        **{"consortium": consortium, "member": "ada", "node": "ada-1", "core_key": NEXT.public_key},
        size=head.size,
        root=head.root.hex(),
    )


def request(said: Succession) -> SuccessionRequest:
    return SuccessionRequest(**said.model_dump(include={"consortium", "core_key", "size", "root"}))


class Tree:
    """Of entries, as they come."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._tree = tree.Tree()

    def add(self, entry: Entry) -> None:
        self._tree.add(tree.leaf_hash(entry.to_bytes()))
        self.entries.append(entry)

    def head(self, size: int | None = None) -> Checkpoint:
        """After so many entries; after all of them if None, or if there are fewer."""
        size = len(self.entries) if size is None else min(size, len(self.entries))
        return Checkpoint(origin_of(self.entries[0].digest), size, self._tree.root(size))

    def signed(self, size: int | None = None, keypair: KeyPair = CORE) -> str:
        """That head as the core signs it."""
        head = self.head(size)
        return Note(head.text).signed(head.origin, keypair).to_bytes().decode()


class Log:
    """A ledger as it grows."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.tree = Tree()

    def add(self, scope: str, event: Part) -> None:
        entry = make_entry(len(self.tree.entries) + 1, AT, scope, event)
        self.tree.add(entry)
        self.lines.append(("entry", entry))

    def put(self, state: RunState, given: machine.Input, envelope: Envelope | None = None) -> RunState:
        """What the round machine makes of an input, behind the envelope that brought it."""
        if envelope is not None:
            self.lines.append(("blob", envelope.to_bytes()))
        step = machine.step(state, given, round(parse_time(AT).timestamp() * 1000))
        for event in step.events:
            self.add("run", event)
        return step.state


def certificate(role: Role = "node") -> Envelope:
    return make_certificate(
        ROOT,
        member="ada",
        node="ada-1",
        role=role,
        public_key=(WITNESS if role == "witness" else NODE).public_key,
        not_before=FROM,
        expires=UNTIL,
    )


REVOCATION = make_revocation(ROOT, member="ada", revoked=NODE.key_id, reason="retired")


def enrol(envelope: Envelope, plan: Plan = PLAN) -> machine.Enrol:
    return machine.Enrol(node="ada-1", member="ada", plan=plan.digest, enrolment=envelope.digest)


def contribute(said: Contribution, envelope: Envelope) -> machine.Contribute:
    named = ("round", "fragment", "node", "member", "plan", "state", "delta", "tokens", "steps")
    return machine.Contribute(**said.model_dump(include=set(named)), contribution=envelope.digest)


@functools.cache
def ledger() -> tuple[tuple[Line, ...], str]:
    """A small ledger that holds, and its consortium: founding, a member, a round that is merged and attested,
    a score, a revocation, another core's key, a checkpoint by it. Each kind of envelope is in it."""
    log = Log()
    log.add(CONSORTIUM, Founded(title="A test", core_key=CORE.public_key, nonce="0" * 32))
    consortium = log.tree.entries[0].digest
    join = make_join(ROOT, consortium=consortium, invitation="A" * 43, member="ada").to_bytes().decode()
    log.add(CONSORTIUM, MemberAdmitted(member="ada", root_key=ROOT.public_key, envelope=join))
    for pair, envelope in ((NODE, certificate()), (WITNESS, certificate("witness"))):
        text = envelope.to_bytes().decode()
        log.add(CONSORTIUM, KeyCertified(member="ada", key_id=pair.key_id, envelope=text))
    planned = machine.plan_run(PLAN)
    log.add("run", planned.events[0])
    state = log.put(planned.state, machine.Start())
    enrolled = sign(enrolment(consortium), NODE)
    state = log.put(state, enrol(enrolled), enrolled)
    said = contribution(consortium, checkpoint=log.tree.signed())
    signed = sign(said, NODE)
    state = log.put(state, contribute(said, signed), signed)
    looked = {"round": 1, "fragment": 0}
    state = log.put(state, machine.Screened(**looked, node="ada-1", contribution=signed.digest, reason=None))
    state = log.put(state, machine.MergeDone(**looked, state=H[7], base=H[8], outer=None))
    attested = sign(attestation(consortium, log.tree.head()), WITNESS)
    who = {"node": "ada-1", "member": "ada", "merges": 1, "state": H[7]}
    state = log.put(state, machine.Attest(**who, round=1, attestation=attested.digest), attested)
    scored = sign(score(consortium), NODE)
    log.put(state, machine.Publish(**who, bits_per_byte=2.25, bytes=4096, score=scored.digest), scored)
    text = REVOCATION.to_bytes().decode()
    log.add(CONSORTIUM, KeyRevoked(member="ada", key_id=NODE.key_id, envelope=text))
    votes = (sign(succession(consortium, log.tree.head()), WITNESS).to_bytes().decode(),)
    log.add(CONSORTIUM, CoreSucceeded(core_key=NEXT.public_key, envelopes=votes))
    log.lines.append(("checkpoint", log.tree.signed(keypair=NEXT)))
    return tuple(log.lines), consortium


def tree_of(entries: Sequence[Entry]) -> Tree:
    found = Tree()
    for entry in entries:
        found.add(entry)
    return found


def checkpoint(entries: Sequence[Entry]) -> Note:
    """The core's signed head over these."""
    return Note.from_bytes(tree_of(entries).signed().encode())


CONSORTIUM_ID = ledger()[1]
ENTRIES: tuple[Entry, ...] = tuple(value for kind, value in ledger()[0] if kind == "entry")
TREE = tree_of(ENTRIES)
RING = KeyRing().admit("ada", ROOT.public_key, sequence=1).certify(certificate(), sequence=2, at=AT)
RING = RING.certify(certificate("witness"), sequence=3, at=AT)
CONTRIBUTION = contribution(CONSORTIUM_ID)
FOLLOWED = contribution(CONSORTIUM_ID, checkpoint=TREE.signed(8))
ATTESTATION = attestation(CONSORTIUM_ID, TREE.head(12))
SUCCESSION = succession(CONSORTIUM_ID, TREE.head())
REQUEST = request(SUCCESSION)
SIGNED = sign(CONTRIBUTION, NODE)
MERGED = Merged(node="ada-1", member="ada", contribution=SIGNED.digest, delta=ARTIFACT.digest, weight=UNIT)
RECORD = RoundRecord(
    **{"run": "run", "round": 1, "fragment": 0, "plan": PLAN.digest, "before": H[2], "after": H[7]},
    merged=(MERGED,),
    envelopes=(SIGNED.to_bytes().decode(),),
)
RECEIPT = Receipt(
    **{"consortium": CONSORTIUM_ID, "run": "run", "round": 1, "fragment": 0, "node": "ada-1"},
    contribution=SIGNED.digest,
    sequence=9,
    received_at=AT,
    decided_by=UNTIL,
)
ENROLMENT = enrolment(CONSORTIUM_ID)
SCORE = score(CONSORTIUM_ID)
HELLO = Hello(
    consortium=CONSORTIUM_ID, core_key=CORE.public_key, release="1", formats={"tapestry.plan": [1]}, time=AT
)
STANDING = NodeStanding(node="ada-1", member="ada", expected=True, status="received", progress=PROGRESS)
VIEW = RunView(
    run="run",
    status="running",
    waiting_for=None,
    sequence=9,
    plan=PLAN.digest,
    head=Head(merges=1, state=H[7], round=1),
    current=OpenRound(
        **{"round": 2, "fragment": 0, "phase": "training", "state": H[7], "opened_at": AT, "deadline": AT},
        quorum=1,
        nodes=(STANDING,),
    ),
    enrolled=("ada-1",),
)
RUN_EVENTS = tuple(entry for entry in ENTRIES if entry.scope != CONSORTIUM)
CONSORTIUM_EVENTS = tuple(entry for entry in ENTRIES if entry.scope == CONSORTIUM)
assert ev.parse_event(RUN_EVENTS[0].type, RUN_EVENTS[0].body)
