"""A real core over real HTTP on loopback, and members that talk to it with real signatures."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import httpx

from tapestry.audit import file
from tapestry.audit.heads import cosignature
from tapestry.audit.verify import Verifier
from tapestry.core import operator, serve, settings
from tapestry.core.clock import now_ms
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import Role, make_certificate, make_join
from tapestry.identity.keys import KeyPair
from tapestry.identity.requests import make_proof
from tapestry.ledger.checkpoint import Checkpoint, origin_of
from tapestry.protocol import canonical
from tapestry.protocol.artifact import Artifact, ArtifactKind, Blob, Model, State
from tapestry.protocol.clock import time_text
from tapestry.protocol.layout import Layout, Tensor
from tapestry.protocol.messages import Attestation, Contribution, Enrolment, Receipt, Score
from tapestry.protocol.plan import Inner, Merge, Plan, Rounds, Witness
from tapestry.protocol.views import RunView
from tapestry.storage.blobs import BlobStore
from tests import warm

EMPTY = canonical.sha256(b"")
LAYOUT = Layout(
    shard_bytes=4096,
    tensors=(
        Tensor(name="a", shape=(600, 4)),
        Tensor(name="b", shape=()),
        Tensor(name="c", shape=(50,)),
    ),
)
# A core's process is forked from one that has its modules loaded: loading them is most of a start.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "tapestry.core.serve"])


def _serve(
    root: Path, ready: Connection, environment: dict[str, str], prepare: Callable[[], object] | None
) -> None:
    with open(root / "stderr.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(environment, TAPESTRY_DIE_WITH_PARENT="1")
    warm.spawns()
    if prepare is not None:
        prepare()
    serve.serve(root, ready=ready.send)


def time_at(offset_s: float = 0.0) -> str:
    return time_text(now_ms() + round(offset_s * 1000))


def shards(value: float, layout: Layout = LAYOUT) -> list[bytes]:
    """Shard files in which every element is `value`."""
    return [s.header + struct.pack("<f", value) * s.elements for s in layout.shards]


def artifact(kind: ArtifactKind, data: list[bytes], layout: Layout = LAYOUT) -> Artifact:
    blobs = tuple(Blob(sha256=canonical.sha256(d), bytes=len(d)) for d in data)
    return Artifact(kind=kind, layout=layout.digest, shards=blobs)


def make_plan(folder: Path, *, run: str = "run", witnesses: int = 0, **rules: Any) -> Plan:
    """A plan, with all it starts from as blobs in `folder`. `witnesses`: the quorum of members."""
    store = BlobStore.open(folder)
    data = shards(1.0)
    base = artifact("base", data)
    for blob in (*data, base.to_bytes(), LAYOUT.to_bytes()):
        store.put(blob, durable=False)
    model = store.put(Model(layout=LAYOUT.digest, files=()).to_bytes(), durable=False)
    state = State(run=run, model=model, merges=0, base=base.digest, outer=None)
    store.put(state.to_bytes(), durable=False)
    return Plan(
        run=run,
        model=model,
        layout=LAYOUT.digest,
        initial_state=state.digest,
        parameters=LAYOUT.elements,
        rounds=Rounds(**{"total": 2, "min_nodes": 2, "quorum": 2, "deadline_s": 600.0} | rules),
        inner=Inner(steps=10),
        merge=Merge(),
        witness=Witness(quorum=witnesses),
    )


@dataclass
class Member:
    """A member with one node, and the requests it makes."""

    name: str
    consortium: str = ""
    root: KeyPair = field(default_factory=KeyPair.generate)
    key: KeyPair = field(default_factory=KeyPair.generate)
    witness: KeyPair = field(default_factory=KeyPair.generate)
    url: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30, trust_env=False))

    @property
    def node(self) -> str:
        return f"{self.name}-1"

    def certificate(
        self, key: KeyPair | None = None, *, expires_s: float = 3600.0, role: Role = "node"
    ) -> Envelope:
        return make_certificate(
            self.root,
            member=self.name,
            node=self.node,
            role=role,
            public_key=(key or self.key).public_key,
            not_before=time_at(-3600),
            expires=time_at(expires_s),
        )

    def join(self, token: str, *certificates: Envelope) -> httpx.Response:
        """With its node's keys, or with these certificates."""
        join = make_join(self.root, consortium=self.consortium, invitation=token, member=self.name)
        own = (self.certificate(), self.certificate(self.witness, role="witness"))
        value = {"join": as_json(join), "certificates": [as_json(c) for c in certificates or own]}
        return self.http.post(self.url + "/v1/join", content=canonical.encode(value))

    def proof(self, method: str, target: str, body_sha: str, **other: Any) -> str:
        known = {"consortium": self.consortium, "at": time_at(), "body_sha": body_sha} | other
        return make_proof(self.key, method=method, target=target, **known)

    def ask(
        self, method: str, target: str, body: bytes = b"", *, proof_of: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {
            "Authorization": self.proof(method, target, proof_of or canonical.sha256(body)),
            **more.pop("headers", {}),
        }
        return self.http.request(method, self.url + target, content=body, headers=headers, **more)

    def put(
        self, data: bytes, *, sha: str | None = None, offset: int = 0, size: int | None = None, **more: Any
    ) -> httpx.Response:
        sha = sha or canonical.sha256(data)
        target = f"/v1/blobs/{sha}?bytes={len(data) if size is None else size}&offset={offset}"
        return self.ask("PUT", target, data[offset:], proof_of=sha, **more)

    def view(self, run: str = "run", *, after: int = 0, wait_s: float = 0, gist: int = 0) -> RunView:
        answer = self.ask("GET", f"/v1/runs/{run}?after={after}&wait_s={wait_s:g}&gist={gist}")
        assert answer.status_code == 200, answer.text
        return RunView.from_bytes(answer.content)

    def wait(self, until: Callable[[RunView], bool], run: str = "run", timeout_s: float = 60.0) -> RunView:
        deadline = time.monotonic() + timeout_s
        view = self.view(run)
        while not until(view):
            assert time.monotonic() < deadline, view
            view = self.view(run, after=view.sequence, wait_s=5)
        return view

    def enrol(self, plan: Plan) -> httpx.Response:
        message = Enrolment(
            consortium=self.consortium, run=plan.run, plan=plan.digest, member=self.name, node=self.node
        )
        return self.ask("POST", f"/v1/runs/{plan.run}/enrolments", sign(message, self.key).to_bytes())

    def contribution(self, plan: Plan, delta: str, /, **other: Any) -> Envelope:
        fields = {
            "consortium": self.consortium,
            "run": plan.run,
            "plan": plan.digest,
            "round": 1,
            "fragment": 0,
            "member": self.name,
            "node": self.node,
            "state": plan.initial_state,
            "delta": delta,
            "tokens": 1000,
            "steps": 10,
            "data_manifest": EMPTY,
            "environment": {},
            "nonce": "0" * 32,
        }
        return sign(Contribution(**(fields | other)), self.key)

    def contribute(self, envelope: Envelope, run: str = "run") -> httpx.Response:
        return self.ask("POST", f"/v1/runs/{run}/contributions", envelope.to_bytes())

    def send_delta(self, value: float, data: list[bytes] | None = None) -> str:
        """Upload a delta in which every element is `value`; its digest."""
        data = data or shards(value)
        manifest = artifact("delta", data).to_bytes()
        for blob in (*data, manifest):
            answer = self.put(blob)
            assert answer.status_code == 200, answer.text
        return canonical.sha256(manifest)

    def hand_in(self, plan: Plan, value: float, **other: Any) -> Receipt:
        """A whole contribution."""
        answer = self.contribute(self.contribution(plan, self.send_delta(value), **other), plan.run)
        assert answer.status_code == 200, answer.text
        return Envelope.from_bytes(answer.content).open_as(Receipt, self.core_key())

    def core_key(self) -> str:
        return str(self.http.get(self.url + "/v1/hello").json()["core_key"])

    def ledger(self) -> Verifier:
        """All the core's entries, held against the rules."""
        verifier, whole = Verifier(), False
        while not whole:
            answer = self.ask("GET", f"/v1/ledger?after={verifier.found.entries}")
            assert answer.status_code == 200, answer.text
            for line in file.parse(answer.content):
                verifier.line(line)
                whole = line[0] == "checkpoint"
        return verifier

    def attestation(self, run: str = "run", /, *, key: KeyPair | None = None, **other: Any) -> Envelope:
        """Of a run's newest base and the ledger that ends with it, or as `other` says; signed by the witness
        key, or `key`."""
        ledger, key = self.ledger(), key or self.witness
        state, size = ledger.state(run), ledger.committed(run)
        assert state is not None and size is not None
        fields = {
            "consortium": self.consortium,
            "run": run,
            "member": self.name,
            "node": self.node,
            "round": state.head_round,
            "merges": state.merges,
            "state": state.head,
            "size": size,
            "root": ledger.root(size).hex(),
        } | other
        head = Checkpoint(origin_of(self.consortium), fields["size"], bytes.fromhex(fields["root"]))
        signed = cosignature(head, self.name, self.node, key, now_ms() // 1000)
        return sign(Attestation(**{"cosignature": signed} | fields), key)

    def attest(self, envelope: Envelope | None = None, run: str = "run") -> httpx.Response:
        """A run's newest base, or what is in an envelope."""
        given = envelope or self.attestation(run)
        return self.ask("POST", f"/v1/runs/{run}/attestations", given.to_bytes())

    def score(self, plan: Plan, bits: float, *, merges: int = 0, state: str | None = None) -> httpx.Response:
        message = Score(
            consortium=self.consortium,
            run=plan.run,
            member=self.name,
            node=self.node,
            merges=merges,
            state=state or plan.initial_state,
            bits_per_byte=bits,
            bytes=100,
        )
        return self.ask("POST", f"/v1/runs/{plan.run}/scores", sign(message, self.key).to_bytes())


def as_json(envelope: Envelope) -> Any:
    return envelope.model_dump(mode="json")


def code(answer: httpx.Response) -> str:
    """The error code of an answer."""
    return str(answer.json()["error"]["code"])


class CoreUnderTest:
    """A core in a folder; its process can be killed and started again."""

    prepare: Callable[[], object] | None = None
    """Called in its process before it serves: makes another core of it, for positive controls and attacks."""

    def __init__(self, root: Path, *, where: Mapping[str, Any] | None = None, **limits: int) -> None:
        """`where`: settings that say where database and blobs are, if not in its folder."""
        self.root = root
        self.consortium = operator.init(
            root, settings.make(port=0, limits=limits, **where or {}), title="Test"
        )
        self.process: ForkServerProcess | None = None
        self.url = ""
        self.members: dict[str, Member] = {}

    def beside(self, root: Path) -> CoreUnderTest:
        """Another process for the same consortium, from a copy of this one's settings and key."""
        shutil.copytree(self.root / "keys", root / "keys")
        shutil.copy(self.root / "core.toml", root / "core.toml")
        for folder in ("status", "logs"):
            (root / folder).mkdir()
        other = object.__new__(CoreUnderTest)
        other.__dict__.update(self.__dict__, root=root, process=None, url="", members={})
        return other

    def start(self, **environment: str) -> CoreUnderTest:
        self._logged = 0
        self._logged = len(self.log_lines())
        environment = {warm.ADDRESS: warm.address(), **environment}
        reader, writer = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(
            target=_serve, args=(self.root, writer, environment, self.prepare), daemon=True
        )
        self.process.start()
        writer.close()
        with reader:
            assert reader.poll(60)
            try:
                self.url = reader.recv()
            except EOFError:
                raise AssertionError((self.root / "stderr.log").read_text()) from None
        for member in self.members.values():
            member.url = self.url
        return self

    def log_lines(self) -> list[str]:
        """Of its log, since it was started last."""
        log = self.root / "logs" / "core.log"
        return log.read_text().splitlines()[self._logged :] if log.exists() else []

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        assert self.process is not None
        self.process.join(30)
        assert self.process.exitcode is not None
        return self.process.exitcode

    def stop(self) -> int:
        assert self.process is not None
        if self.process.is_alive():
            self.process.terminate()
        return self.wait()

    def member(self, name: str, *, join: bool = True) -> Member:
        member = Member(name, self.consortium, url=self.url)
        self.members[name] = member
        if join:
            answer = member.join(operator.invite(self.root, name))
            assert answer.status_code == 200, answer.text
        return member

    def running(self, plan: Plan, blobs: Path, *names: str) -> list[Member]:
        """A started run in which the named members have enrolled."""
        operator.plan(self.root, plan, blobs)
        operator.start(self.root, plan.run)
        members = [self.members.get(name) or self.member(name) for name in names]
        for member in members:
            answer = member.enrol(plan)
            assert answer.status_code == 200, answer.text
        return members

    def close(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.kill()
        for member in self.members.values():
            member.http.close()
