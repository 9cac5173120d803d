"""Nodes with real parts, and cores that lie to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tapestry.errors import (
    TapestryError,
)
from tapestry.identity.envelope import sign
from tapestry.identity.keys import KeyPair
from tapestry.node import setup
from tapestry.node.home import Home
from tapestry.node.memory import HeadMemory, Memory, OwnContribution
from tapestry.node.people import People
from tapestry.node.submit import Submitter
from tapestry.node.sync import Library, Synchronizer
from tapestry.protocol.messages import Contribution, Merged, Receipt
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import Head, RoundRecord, RunView
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import Share, merge_weights
from tapestry.storage.blobs import BlobStore
from tapestry.transport.client import CoreClient
from tests.attacks.support import FEDAVG, HereReplay, values_of
from tests.core.support import EMPTY, artifact, make_plan, shards
from tests.node.test_records import CONSORTIUM as HERE
from tests.node.test_records import KEYS, Core
from tests.transport.stub import CONSORTIUM, KEY, TIME, StubCore


class Scene:
    """A node one merge behind, its real synchronizer and merge, and a core that tells it lies."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "node")
        self.home.make_folders()
        self.core = Core(BlobStore.open(folder / "core"))
        plan = make_plan(folder / "core")
        self.plan: Plan = plan.model_copy(update={"merge": FEDAVG})
        self.core.store.put(self.plan.to_bytes())
        self.store = BlobStore.open(self.home.blobs)
        self.library = Library(self.core, self.store)  # type: ignore[arg-type]
        self.people = People(self.core)  # type: ignore[arg-type]
        self.sync = Synchronizer(
            self.home,
            self.library,
            HereReplay(self.store),
            HERE,
            self.people,  # type: ignore[arg-type]
            merged=lambda _run, number: self.stated.get(number),
        )
        self.stated: dict[int, tuple[Merged, ...]] = {}
        """By round: what the node's own ledger says was merged."""
        self.library.model(self.plan)
        self.library.state(self.plan.initial_state, self.plan, outer=True)
        self.deltas = {"de": self.put_delta(0.5), "fr": self.put_delta(0.25)}
        self.start = HeadMemory(merges=0, state=self.plan.initial_state, round=0)
        self.good = self.record()

    def put_delta(self, value: float) -> str:
        data = shards(value)
        for blob in data:
            self.core.store.put(blob, durable=False)
        return self.core.store.put(artifact("delta", data).to_bytes(), durable=False)

    def record(
        self, *, keys: dict[str, KeyPair] = KEYS, names: tuple[str, ...] = ("de", "fr"), **other: Any
    ) -> RoundRecord:
        """A record of the first round; `other` are fields of its contributions. Its weights are the plan's,
        and its new state is what they give."""
        envelopes, merged = [], []
        for name in names:
            fields: dict[str, Any] = {
                "consortium": HERE,
                "run": "run",
                "plan": self.plan.digest,
                "round": 1,
                "fragment": 0,
                "member": name,
                "node": f"{name}-1",
                "state": self.plan.initial_state,
                "delta": self.deltas[name],
                "tokens": 1000 if name == "fr" else 3000,
                "steps": 10,
                "data_manifest": EMPTY,
                "environment": {},
                "nonce": "0" * 32,
            }
            envelopes.append(sign(Contribution(**fields | other), keys[name]))
            merged.append({"node": f"{name}-1", "member": name, "delta": fields["delta"]})
        shares = [Share(member=n, node=f"{n}-1", tokens=1000 if n == "fr" else 3000) for n in names]
        weights = merge_weights(shares, weighting="tokens", influence_cap=1.0)
        return self.ended(
            RoundRecord.model_validate(
                {
                    "run": "run",
                    "round": 1,
                    "fragment": 0,
                    "plan": self.plan.digest,
                    "before": self.plan.initial_state,
                    "after": "a" * 64,
                    "merged": tuple(
                        each | {"weight": weight, "contribution": envelope.digest}
                        for each, weight, envelope in zip(merged, weights, envelopes, strict=True)
                    ),
                    "envelopes": tuple(each.to_bytes().decode() for each in envelopes),
                }
            )
        )

    def ended(self, record: RoundRecord) -> RoundRecord:
        """With the state that its merge really gives: this core computes what it lies about."""
        try:
            job = MergeJob.of(self.plan, state=record.before, contributions=record.merged, durable=False)
            after = HereReplay(self.core.store).merge(job).state
        except (ValueError, TapestryError):
            return record
        return record.model_copy(update={"after": after})

    def view(self, state: str, merges: int = 1, round: int = 1) -> RunView:
        return RunView(
            run="run",
            status="running",
            waiting_for=None,
            sequence=9,
            plan=self.plan.digest,
            head=Head(merges=merges, state=state, round=round),
            current=None,
            enrolled=(),
        )

    def told(self, record: RoundRecord, *, state: str | None = None) -> HeadMemory:
        """The node is told that this was the first round, and follows."""
        self.core.records = {1: record}
        return self.sync.advance(self.start, self.view(state or record.after), self.plan)[0]

    def unharmed(self) -> None:
        """The node keeps no such record, and follows the true one."""
        assert not list(self.home.records.iterdir())
        head = self.told(self.good)
        assert values_of(self.store, head.state) == {1 - (0.75 * 0.5 + 0.25 * 0.25)}
        for path in self.home.records.iterdir():
            path.unlink()


class Sending:
    """A node that hands in a contribution to a stub."""

    def __init__(self, folder: Path, stub: StubCore, client: CoreClient) -> None:
        from tapestry.node import settings
        from tapestry.node.outbox import Outbox

        self.stub, self.core_key = stub, KeyPair.generate()
        self.home = Home(folder / "node")
        self.home.make_folders()
        joined = setup.Consortium(
            core_url=stub.url,
            consortium=CONSORTIUM,
            core_key=self.core_key.public_key,
            root_key="0" * 64,
            ca=None,
        )
        self.store = BlobStore.open(self.home.blobs)
        self.memory = Memory(self.home)
        section = settings.make(member="m", name="m-1", corpus="text").node
        self.submitter = Submitter(
            self.home, section, joined, client, self.store, self.memory, Outbox(self.home, client.traffic)
        )
        data = shards(2.0)
        manifest = artifact("delta", data)
        for blob in (*data, manifest.to_bytes()):
            self.store.put(blob)
        self.own = sign(
            Contribution(
                consortium=CONSORTIUM,
                run="run",
                plan="1" * 64,
                round=1,
                fragment=0,
                member="m",
                node="m-1",
                state="2" * 64,
                delta=manifest.digest,
                tokens=1,
                steps=1,
                data_manifest=EMPTY,
                environment={},
                nonce="0" * 32,
            ),
            KEY,
        )
        self.remember()

    def remember(self) -> None:
        text = self.own.to_bytes().decode()
        said = self.own.unverified(Contribution)
        self.memory.set("run", contribution=OwnContribution(round=1, delta=said.delta, envelope=text))

    def answers(self, key: KeyPair, **other: Any) -> None:
        receipt = Receipt(
            **{
                "consortium": CONSORTIUM,
                "run": "run",
                "round": 1,
                "fragment": 0,
                "node": "m-1",
                "contribution": self.own.digest,
                "sequence": 7,
                "received_at": TIME,
                "decided_by": TIME,
            }
            | other
        )
        body = sign(receipt, key).to_bytes()
        self.stub.answers["/v1/runs/run/contributions"] = lambda: (200, {}, body)

    @property
    def outcome(self) -> str:
        own = self.memory["run"].contribution
        assert own is not None
        return own.outcome

    def goes_on(self) -> None:
        self.remember()
        self.answers(self.core_key)
        self.submitter.hand_in("run")
        assert self.outcome == "receipted"
        (kept,) = self.home.receipts.iterdir()
        kept.unlink()
        self.remember()
