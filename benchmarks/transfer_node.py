"""One node of `transfer`: its gate's and its agent's own code, without trainer and rounds of training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.made import RUN
from benchmarks.puppets import Reply, obey
from tapestry.node import settings, setup
from tapestry.node.gate import MANIFEST, RESULT, Examiner
from tapestry.node.home import Home
from tapestry.node.memory import Memory
from tapestry.node.outbox import Outbox
from tapestry.node.submit import Submitter
from tapestry.node.sync import Library, blobs_of
from tapestry.protocol.artifact import Artifact
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainResult

ROUND = 1


class Node:
    """A joined node whose trainer has finished a round: `delta`, which lies in the blob folder `source`."""

    def __init__(self, request: Reply) -> None:
        self.home = Home(Path(request["home"]))
        self.source = BlobStore.open(request["source"])
        self.delta: str = request["delta"]
        self.client = setup.connect(self.home)
        self.store = BlobStore.open(self.home.blobs)
        self.library = Library(self.client, self.store)
        self.memory = Memory(self.home)
        self.submitter = Submitter(
            self.home,
            settings.load(self.home).node,
            setup.load_consortium(self.home),
            self.client,
            self.store,
            self.memory,
            Outbox(self.home, self.client.traffic),
        )
        self.plan: Plan
        self.result: TrainResult

    def words(self) -> dict[str, Callable[[], Reply | None]]:
        return {
            "enrol": self.enrol,
            "open": self.open,
            "gate": self.gate,
            "upload": self.upload,
            "merged": self.merged,
            "download": self.download,
        }

    def enrol(self) -> None:
        view = self.client.run(RUN)
        self.plan = self.library.message(view.plan, Plan)
        self.library.model(self.plan)
        self.submitter.enrol(self.plan)

    def open(self) -> None:
        """Wait for the round, then lay the trainer's folder."""
        view = self._wait(lambda view: view.current is not None)
        assert view.current is not None
        self.result = TrainResult(
            run=RUN,
            plan=view.plan,
            round=view.current.round,
            merges=0,
            state=view.current.state,
            delta=self.delta,
            tokens=1000,
            steps=10,
            data_manifest="0" * 64,
            loss=1.0,
            score=None,
            environment={},
            train_s=0.0,
            evaluate_s=0.0,
        )
        folder = self.home.output(RUN, ROUND)
        folder.mkdir(parents=True)
        manifest = self.source.read(self.delta, Artifact.MAX_BYTES)
        for blob in Artifact.from_bytes(manifest).shards:
            (folder / blob.sha256).hardlink_to(self.source.path(blob.sha256))
        (folder / MANIFEST).write_bytes(manifest)
        (folder / RESULT).write_bytes(self.result.to_bytes())

    def gate(self) -> None:
        """Check, hash and take over the delta, as the gate does before the agent may send it."""
        examiner = Examiner(self.store)
        folder = self.home.output(RUN, ROUND)
        examiner.take(folder, examiner.examine(folder))

    def upload(self) -> None:
        """Until the core's receipt: every byte hashed and synced there."""
        self.submitter.sign(self.result)
        self.submitter.hand_in(RUN)
        own = self.memory[RUN].contribution
        if own is None or own.outcome != "receipted":
            raise RuntimeError(f"the contribution was not taken in: {own and own.reason}")

    def merged(self) -> None:
        self._wait(lambda view: view.head.round >= ROUND)

    def download(self) -> Reply:
        """The others' deltas as a replaying node fetches them, then synced, which a node does not do: what
        it can fetch again need not survive a power cut."""
        start = time.perf_counter()
        record = self.client.round(RUN, ROUND)
        deltas = [merged.delta for merged in record.merged]
        self.library.artifacts(deltas, self.library.layout(self.plan.layout), "delta")
        fetched = time.perf_counter()
        self.store.sync(blob.sha256 for delta in deltas for blob in blobs_of(self.store, delta))
        return {"fetch_s": fetched - start, "sync_s": time.perf_counter() - fetched, "deltas": len(deltas)}

    def _wait(self, until: Callable[[RunView], bool]) -> RunView:
        view = self.client.run(RUN)
        while not until(view):
            view = self.client.run(RUN, after=view.sequence, wait_s=5)
        return view


if __name__ == "__main__":
    obey(lambda request: Node(request).words())
