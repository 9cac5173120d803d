"""A core whose disk is gone is set up again from what its nodes have, and the run goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import pytest

from tapestry.audit import file
from tapestry.audit.verify import Verifier
from tapestry.cli import replicas
from tapestry.core import backup as backups
from tapestry.core import operator, settings
from tapestry.core.proofs import Proofs
from tapestry.core.recover import recover
from tapestry.core.repeat import Repeater
from tapestry.core.service import Core
from tapestry.errors import Fork, IntegrityError, KeyRefused, MergeMismatch
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.replay.job import MergeJob
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest, wait_until

SECONDS = 60.0


def held_until(happened: list[bool], value: float, *, of_round: int) -> Callable[[TrainJob], list[bytes]]:
    """Deltas of a trainer that waits in one round."""

    def make(job: TrainJob) -> list[bytes]:
        if job.round == of_round:
            wait_until(lambda: happened)
        return shards(value + job.round)

    return make


class Scene:
    """Three nodes in the second of three rounds: two have handed in, the third trains on."""

    def __init__(self, core: CoreUnderTest, make_node: MakeNode, folder: Path) -> None:
        self.core = core
        self.port = int(core.url.rsplit(":", 1)[1])
        toml = core.root / "core.toml"  # at the same address again
        toml.write_text(toml.read_text().replace("port = 0", f"port = {self.port}"))
        plan = make_plan(folder / "seed", total=3, min_nodes=3, quorum=3, witnesses=2)
        operator.plan(core.root, plan, folder / "seed")
        operator.start(core.root, "run")
        self.go_on: list[bool] = []
        self.nodes = [make_node(name) for name in ("de", "fr", "uk")]
        self.older = folder / "older"
        backups.backup(core.root, folder / "backup")
        backups.restore(folder / "backup", self.older)
        for number, node in enumerate(self.nodes):
            make = held_until(self.go_on if number == 2 else [True], float(number), of_round=2)
            node.start(make=make)
        wait_until(lambda: all(_receipted(node, 2) for node in self.nodes[:2]))

    def recover(self, *nodes: NodeUnderTest) -> dict[str, int]:
        return recover(
            self.core.root,
            [replicas.of_node(node.home.root) for node in nodes],
            settings.make(port=self.port),
        )

    def stop(self) -> None:
        self.go_on.append(True)
        for node in self.nodes:
            node.stop()

    def finish(self) -> None:
        self.go_on.append(True)
        for node in self.nodes:
            try:
                assert node.wait(SECONDS) == 0, node.log()
            except TimeoutExpired:
                raise AssertionError("\n".join(each.log() for each in self.nodes)) from None


def _receipted(node: NodeUnderTest, round: int) -> bool:
    return (node.home.receipts / f"run.{round}.json").exists()


@pytest.fixture
def scene(core: CoreUnderTest, make_node: MakeNode, tmp_path: Path) -> Scene:
    return Scene(core, make_node, tmp_path)


def received(root: Path) -> list[tuple[int, str]]:
    with Core.open(root) as core:
        lines = list(Proofs(core.journal, core.consortium).lines(core.store))
    Verifier().take(lines)
    entries = [value for kind, value in lines if kind == "entry"]
    return [(e.body["round"], e.body["node"]) for e in entries if e.type == "contribution-received"]


def test_a_core_whose_disk_is_gone(scene: Scene) -> None:
    """Nothing that was acknowledged is lost or counted twice, though even the core's key is another."""
    scene.core.kill()
    key = (scene.core.root / "keys" / "core.key").read_bytes()
    shutil.rmtree(scene.core.root)
    done = scene.recover(*scene.nodes)
    assert done["lacking"] == 0 < done["adopted"] == done["events"] - 1  # and the new key's entry
    assert (scene.core.root / "keys" / "core.key").read_bytes() != key
    scene.core.start()
    scene.finish()
    view = operator.view(scene.core.root, "run")
    assert (view.status, view.head.merges) == ("finished", 3)
    expected = [(number, f"{name}-1") for number in (1, 2, 3) for name in ("de", "fr", "uk")]
    assert sorted(received(scene.core.root)) == sorted(expected)
    jobs = [job.round for node in scene.nodes if node.trainer for job in node.trainer.jobs if job.train]
    assert sorted(jobs) == [1, 1, 1, 2, 2, 2, 3, 3, 3]  # nothing was trained twice


def test_an_older_copy_is_brought_forward(scene: Scene) -> None:
    scene.core.kill()
    with Core.open(scene.core.root) as core:
        size = core.journal.tree_head()[0]
    shutil.rmtree(scene.core.root)
    shutil.copytree(scene.older, scene.core.root)
    done = scene.recover(*scene.nodes)
    assert done["events"] <= size and done["adopted"] > 0 == done["lacking"]
    again = scene.recover(*scene.nodes)  # what is whole stays as it is
    assert (again["events"], again["adopted"], again["blobs"]) == (done["events"], 0, 0)
    scene.core.start()
    scene.finish()


def _forget_newest(scene: Scene) -> str:
    """As if no node had repeated the newest merge: what came of it is gone. Its state.

    Shards of the momentum stay: with such deltas they have the bytes of one of them.
    """
    with Core.open(scene.core.root) as core:
        head = core.runs.standing("run").state.head
        state = State.from_bytes(core.store.read(head))
        gone = {head, *filter(None, (state.base, state.outer))}
        gone |= {blob.sha256 for blob in Artifact.from_bytes(core.store.read(state.base)).shards}
    for node in scene.nodes:
        BlobStore.open(node.home.blobs).delete_all(gone)
    return head


def _other_rate(plan: Plan, **given: Any) -> MergeJob:
    """As `MergeJob.of`, of a core that does not keep to the plan."""
    rule = plan.merge.model_copy(update={"outer_rate": plan.merge.outer_rate / 2})
    return _by_the_plan(plan.model_copy(update={"merge": rule}), **given)


_by_the_plan = MergeJob.of


def test_a_merge_that_only_the_lost_core_had_done_is_repeated(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a contribution is lost as well, or what comes out is not what the ledger has."""
    scene.core.kill()
    head = _forget_newest(scene)
    shutil.rmtree(scene.core.root)
    record = RoundRecord.from_bytes((scene.nodes[0].home.records / "run.1.json").read_bytes())
    stores = [BlobStore.open(node.home.blobs) for node in scene.nodes]
    delta = stores[0].read(record.merged[0].delta)
    for store in stores:
        store.delete(record.merged[0].delta)
    done = scene.recover(*scene.nodes)
    assert (done["repeated"], done["lacking"]) == (0, 2)  # what the state names is not even known
    stores[0].put(delta)
    with monkeypatch.context() as without:
        without.setattr(Repeater, "repeat", lambda self: 0)
        assert scene.recover(*scene.nodes)["lacking"] == 1
    with monkeypatch.context() as crooked:
        crooked.setattr(MergeJob, "of", _other_rate)
        with pytest.raises(MergeMismatch, match="merge 1 of run run gives state"):
            scene.recover(*scene.nodes)
    done = scene.recover(*scene.nodes)
    assert (done["repeated"], done["lacking"]) == (1, 0)
    with Core.open(scene.core.root) as core:
        assert core.runs.standing("run").state.head == head and core.store.has(head)
    scene.core.start()
    scene.finish()
    assert operator.view(scene.core.root, "run").head.merges == 3


def test_a_minority_sets_up_no_core(scene: Scene) -> None:
    scene.core.kill()
    shutil.rmtree(scene.core.root)
    with pytest.raises(KeyRefused, match="1 of 3 members"):
        scene.recover(scene.nodes[0])
    with pytest.raises(KeyRefused, match="1 of 3 members"):
        scene.recover(scene.nodes[0], scene.nodes[0])
    assert not (scene.core.root / "core.toml").exists()
    # A call that failed is finished by the next; with all, since each may have seen the most of the ledger.
    scene.recover(*scene.nodes)
    scene.core.start()
    scene.finish()


def test_a_copy_that_was_changed_is_not_taken(scene: Scene) -> None:
    scene.core.kill()
    scene.stop()
    path = scene.nodes[0].home.ledger / "ledger.jsonl"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"tokens":1000', b'"tokens":1001', 1))
    with pytest.raises(IntegrityError, match="the ledger of node de-1 does not hold"):
        scene.recover(*scene.nodes)
    assert list(file.read(path))  # its lines are well formed


def test_a_core_that_went_on_by_itself_contradicts_its_nodes(scene: Scene, tmp_path: Path) -> None:
    scene.core.kill()
    scene.stop()
    shutil.rmtree(scene.core.root)
    scene.recover(*scene.nodes[:2])
    other = tmp_path / "another"
    recover(other, [replicas.of_node(n.home.root) for n in scene.nodes[:2]], settings.make(port=0))
    with Core.open(scene.core.root) as a, Core.open(other) as b:
        assert a.journal.tree_head()[1] != b.journal.tree_head()[1]
    with pytest.raises(Fork):
        _from_core(other, scene)


def _from_core(root: Path, scene: Scene) -> None:
    """Recover from a copy that follows another core than the one there."""
    node = scene.nodes[0]
    with Core.open(root) as core:
        lines = list(Proofs(core.journal, core.consortium).lines(core.store))
    path = node.home.ledger / "ledger.jsonl"
    with path.open("wb") as out:
        file.write(out, lines[:-1])
    replica = replicas.of_node(node.home.root)
    given = type(replica)(
        name=replica.name,
        ledger=path,
        ledger_bytes=path.stat().st_size,
        checkpoint=lines[-1][1],
        blobs=replica.blobs,
        endorse=replica.endorse,
    )
    recover(scene.core.root, [given], settings.make(port=0))
