"""A core without a server, whose clock and merges a test gives itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from tapestry.audit.heads import cosignature
from tapestry.core import operator, settings
from tapestry.core.clock import now_ms
from tapestry.core.consortium import succeed
from tapestry.core.proofs import Proofs
from tapestry.core.runs import Committed
from tapestry.core.service import Core
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import Role, Signer, make_certificate, make_join, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.notes import Note
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, Blob, Model, State
from tapestry.protocol.layout import Fragment, Layout, Tensor
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Score, Succession
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds, Streaming, Witness
from tapestry.rounds import machine
from tapestry.rounds.state import RunState
from tests.audit.support import Ledger
from tests.core.support import time_at

TENSORS: Final = (Tensor(name="a", shape=(4, 2)), Tensor(name="b", shape=(3,)))
EMPTY: Final = canonical.sha256(b"")


def digest(*parts: object) -> str:
    return canonical.sha256(repr(parts).encode())


@dataclass
class Node:
    """A node and its member, whose root key is the first node's."""

    member: str
    name: str
    root: KeyPair
    key: KeyPair = field(default_factory=KeyPair.generate)
    witness: KeyPair = field(default_factory=KeyPair.generate)
    vote: KeyPair = field(default_factory=KeyPair.generate)
    """The member's; the first node's is used."""

    def certificate(self, key: KeyPair, role: Role = "node", *, named: bool = True) -> Envelope:
        """`named`: for this node; else for the member as a whole."""
        return make_certificate(
            self.root,
            member=self.member,
            node=self.name if named else None,
            role=role,
            public_key=key.public_key,
            not_before=time_at(-3600),
            expires=time_at(1e6),
        )

    @property
    def signer(self) -> Signer:
        return Signer(self.member, self.name, "node", self.key.key_id)


class Scene:
    """What happens is put to the core as its server would."""

    tensors: ClassVar[tuple[Tensor, ...]] = TENSORS
    shard_bytes: ClassVar[int] = 4096

    def __init__(self, root: Path) -> None:
        self.consortium = operator.init(root, settings.make(port=0), title="Scene")
        self.root = root
        self.now = now_ms()
        self.core = Core.open(root, clock=lambda: self.now)
        self.layout = Layout(shard_bytes=self.shard_bytes, tensors=self.tensors)
        self._sent = 0
        self.former: list[tuple[int, KeyPair]] = []
        """Keys of the core before this one, and up to which size they signed."""

    def node(self, member: str, name: str | None = None, *, like: Node | None = None) -> Node:
        """A member with its first node, or a further node of one."""
        node = Node(member, name or f"{member}-1", like.root if like is not None else KeyPair.generate())
        certificates = [node.certificate(node.key), node.certificate(node.witness, "witness")]
        if like is not None:
            for certificate in certificates:
                self.core.consortium.certify(certificate)
            return node
        token = operator.invite(self.root, member)
        join = make_join(node.root, consortium=self.consortium, invitation=token, member=member)
        self.core.consortium.join(join, certificates)
        return node

    def rotate(self, node: Node) -> None:
        """The new key is certified, then the old one revoked."""
        old, node.key = node.key, KeyPair.generate()
        self.core.consortium.certify(node.certificate(node.key))
        self.revoke(node, old)

    def revoke(self, node: Node, key: KeyPair) -> None:
        self.core.consortium.revoke(
            make_revocation(node.root, member=node.member, revoked=key.key_id, reason="rotated")
        )

    def plan(self, run: str = "run", *, fragments: int = 1, **fields: Any) -> Plan:
        """Recorded, with a model of few numbers. `fields`: of the tables, by `table_field`."""
        numbers = tuple(i % fragments for i in range(len(self.tensors))) if fragments > 1 else ()
        self.layout = Layout(shard_bytes=self.shard_bytes, tensors=self.tensors, fragments=numbers)
        put, blobs = self.core.store.put, self._blobs(1.0)
        base = Artifact(kind="base", layout=put(self.layout.to_bytes()), shards=blobs)
        model = put(Model(layout=self.layout.digest, files=()).to_bytes())
        state = State(run=run, model=model, merges=0, base=put(base.to_bytes()), outer=None)
        tables: dict[str, dict[str, Any]] = {"rounds": {}, "inner": {}, "merge": {}, "witness": {}}
        for name, value in fields.items():
            table, _, inside = name.partition("_")
            tables[table][inside] = value
        plan = Plan(
            run=run,
            model=model,
            layout=self.layout.digest,
            initial_state=put(state.to_bytes()),
            parameters=self.layout.elements,
            rounds=Rounds(
                **({"total": 2, "min_nodes": 2, "quorum": 2, "deadline_s": 60.0} | tables["rounds"])
            ),
            inner=Inner(**({"steps": 10} | tables["inner"])),
            merge=Merge(**tables["merge"]),
            streaming=Streaming(fragments=fragments),
            witness=Witness(**tables["witness"]),
        )
        self.core.runs.plan(plan)
        return plan

    def state(self, run: str = "run") -> RunState:
        return self.core.runs.standing(run).state

    def running(self, *nodes: Node, **fields: Any) -> Plan:
        plan = self.plan(**fields)
        self.put(machine.Start(), plan.run)
        for node in nodes:
            self.enrol(node, plan.run)
        return plan

    def put(self, given: machine.Input, run: str = "run") -> None:
        self.core.runs.apply(run, given)

    def enrol(self, node: Node, run: str = "run") -> None:
        state = self.state(run)
        plan = (state.next_plan or state.plan).digest
        said = Enrolment(consortium=self.consortium, run=run, plan=plan, member=node.member, node=node.name)
        self.core.runs.enrol(run, sign(said, node.key), node.signer)

    def envelope(self, node: Node, run: str = "run", **fields: Any) -> Envelope:
        """A contribution to the open round, or as `fields` say; its blobs are put."""
        state = self.state(run)
        at = state.current or state.rounds[-1]
        self._sent += 1
        fragment = self.core.runs.layout(state.plan.layout).fragment(at.fragment)
        manifest = Artifact(
            kind="delta", layout=state.plan.layout, shards=self._blobs(self._sent / 64, fragment)
        )
        known = {
            "consortium": self.consortium,
            "run": run,
            "plan": state.plan.digest,
            "round": at.round,
            "fragment": at.fragment,
            "member": node.member,
            "node": node.name,
            "state": at.state,
            "delta": self.core.store.put(manifest.to_bytes()),
            "tokens": 1000,
            "steps": 4,
            "data_manifest": EMPTY,
            "environment": {"machine": "made up"},
            "nonce": f"{self._sent:032x}",
            "checkpoint": None,
        }
        return sign(Contribution(**(known | fields)), node.key)

    def send(self, node: Node, run: str = "run", *, reason: str | None = None, **fields: Any) -> None:
        """A contribution, and its screening: refused where there is a reason."""
        self.hand_in(self.envelope(node, run, **fields), node, run, reason=reason)

    def hand_in(self, given: Envelope, node: Node, run: str = "run", *, reason: str | None = None) -> None:
        self.now += 1500
        self.core.runs.contribute(run, given, node.signer)
        at = self.state(run).current
        assert at is not None
        screened = machine.Screened(
            round=at.round, fragment=at.fragment, node=node.name, contribution=given.digest, reason=reason
        )
        self.now += 20
        self.put(screened, run)

    def commit(self, node: Node, run: str = "run", **fields: Any) -> tuple[Envelope, Node]:
        """A contribution whose bytes are revealed later."""
        self.now += 1500
        given = self.envelope(node, run, **fields)
        assert isinstance(self.core.runs.contribute(run, given, node.signer), Committed)
        return given, node

    def reveal(self, *sent: tuple[Envelope, Node], run: str = "run", reason: str | None = None) -> None:
        """The bytes of these; refused where there is a reason."""
        for given, node in sent:
            self.hand_in(given, node, run, reason=reason)

    def merge(self, run: str = "run") -> None:
        state = self.state(run)
        at = state.current
        assert at is not None and at.phase == "merging", at
        self.now += 300
        made = (digest(what, run, state.merges) for what in ("state", "base", "outer"))
        result = dict(zip(("state", "base", "outer"), made, strict=True))
        self.put(machine.MergeDone(round=at.round, fragment=at.fragment, **result), run)

    def wait(self, seconds: float, run: str = "run") -> None:
        self.now += round(seconds * 1000)
        self.put(machine.Tick(), run)

    def score(self, node: Node, bits: float, run: str = "run") -> None:
        state = self.state(run)
        said = Score(
            consortium=self.consortium,
            run=run,
            member=node.member,
            node=node.name,
            merges=state.merges,
            state=state.head,
            bits_per_byte=bits,
            bytes=12345,
        )
        self.core.runs.score(run, sign(said, node.key), node.signer)

    def head(self, size: int | None = None, *, key: KeyPair | None = None) -> str:
        """Of the first entries of the ledger, of all where no size is given; signed by the core."""
        journal, origin = self.core.journal, origin_of(self.consortium)
        size = journal.tree_head()[0] if size is None else size
        text = Checkpoint(origin, size, journal.tree_root(size)).text
        spoke = [former for upto, former in self.former if size <= upto]  # the key of that size
        key = key or (spoke[0] if spoke else self.core.consortium.core_key)
        return Note(text).signed(origin, key).to_bytes().decode()

    def attestation(self, node: Node, run: str = "run", **fields: Any) -> Envelope:
        """Of the newest base, or as `fields` say; `key` signs it."""
        state = self.state(run)
        size = self.core.journal.of_round(run, state.head_round, "round-committed")[-1].sequence
        key = fields.pop("key", node.witness)
        root = self.core.journal.tree_root(size)
        head = Checkpoint(origin_of(self.consortium), fields.get("size", size), root)
        known = {
            "consortium": self.consortium,
            "run": run,
            "member": node.member,
            "node": node.name,
            "round": state.head_round,
            "merges": state.merges,
            "state": state.head,
            "size": size,
            "root": root.hex(),
            "cosignature": cosignature(head, node.member, node.name, key, self.now // 1000),
        }
        return sign(Attestation(**(known | fields)), key)

    def attest(self, node: Node, run: str = "run", **fields: Any) -> None:
        self.now += 40
        self.core.runs.attest(run, self.attestation(node, run, **fields), node.signer)

    def succession(self, node: Node, core_key: str, **fields: Any) -> Envelope:
        """A member's word for another key of the core, at the end of the ledger."""
        size, root = self.core.journal.tree_head()
        key = fields.pop("key", node.witness)
        known = {
            "consortium": self.consortium,
            "member": node.member,
            "node": node.name,
            "core_key": core_key,
            "size": size,
            "root": root.hex(),
        }
        return sign(Succession(**(known | fields)), key)

    def succeed(self, *nodes: Node) -> None:
        """The core goes on with another key, which these have signed for."""
        new, journal = KeyPair.generate(), self.core.journal
        envelopes = [self.succession(node, new.public_key) for node in nodes]
        size, root = journal.tree_head()
        succeed(journal, self.consortium, new.public_key, envelopes, size, root.hex())
        self.former.append((size, self.core.consortium.core_key))
        self.core.consortium.core_key = new

    def ledger(self) -> Ledger:
        consortium = self.core.consortium
        lines = Proofs(self.core.journal, consortium).lines(self.core.store)
        return Ledger(list(lines), consortium.core_key)

    def _blobs(self, value: float, of: Fragment | None = None) -> tuple[Blob, ...]:
        shards = (of or self.layout).shards
        data = [shard.header + struct.pack("<f", value) * shard.elements for shard in shards]
        return tuple(Blob(sha256=self.core.store.put(each), bytes=len(each)) for each in data)


@contextmanager
def on_core(root: Path) -> Iterator[Scene]:
    scene = Scene(root)
    with scene.core:
        yield scene
