"""Real agents and gates against a real core; only the trainer is a stand-in."""

from __future__ import annotations

import json
import re
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.host import failpoints
from tapestry.host.processes import anonymous_bytes
from tapestry.identity.envelope import Envelope
from tapestry.node import setup
from tapestry.node.home import write_status
from tapestry.node.memory import AgentMemory
from tapestry.node.outbox import egress_table
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.messages import Contribution, Receipt
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RunView
from tapestry.training.blobs import BlobFolder
from tapestry.training.spool import TrainJob
from tests.core.support import LAYOUT, CoreUnderTest, make_plan, shards
from tests.node.conftest import MakeNode
from tests.node.support import FakeTrainer, NodeUnderTest, wait_until

MAX_ANONYMOUS_BYTES = 150 << 20


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "seed", witnesses=2)


def start_run(core: CoreUnderTest, plan: Plan, seed: Path) -> None:
    operator.plan(core.root, plan, seed)
    operator.start(core.root, plan.run)


def view(core: CoreUnderTest) -> RunView:
    return operator.view(core.root, "run")


def events(core: CoreUnderTest, kind: str) -> list[dict[str, Any]]:
    from tapestry.core.service import Core

    with Core.open(core.root) as opened:
        entries, _ = opened.journal.entries(0, limit=1000, max_bytes=1 << 24)
    found = [json.loads(entry) for entry in entries]
    return [entry["body"] for entry in found if entry["type"] == kind]


def memory(node: NodeUnderTest) -> AgentMemory:
    return AgentMemory.from_bytes(node.home.agent_state.read_bytes())


def run_of(node: NodeUnderTest) -> dict[str, Any]:
    return dict(node.status("agent").get("runs", {}).get("run", {}))


def finished(*nodes: NodeUnderTest) -> None:
    for node in nodes:
        assert node.wait() == 0, node.log()


def test_a_run_from_beginning_to_end(
    core: CoreUnderTest, make_node: MakeNode, plan: Plan, tmp_path: Path
) -> None:
    start_run(core, plan, tmp_path / "seed")
    nodes = [make_node("fr"), make_node("de")]
    held = Held(2)
    nodes[0].cold = True
    nodes[0].start(make=held.make)
    nodes[1].start(2.0)
    wait_until(lambda: run_of(nodes[0]).get("merges") == 1)
    used = anonymous_bytes(nodes[0].processes["agent"].pid)
    print(f"agent: {used >> 20} MiB of anonymous memory")
    held.release()
    finished(*nodes)
    head = view(core).head
    assert (view(core).status, head.merges) == ("finished", 2)
    for node in nodes:
        kept = memory(node).runs["run"]
        assert kept.head is not None and kept.head.state == head.state
        assert (kept.replayed, kept.fetched, kept.finished) == (2, 1, True)
        state = State.from_bytes(node.store.read(head.state))
        base = Artifact.from_bytes(node.store.read(state.base))
        assert all(node.store.read(blob.sha256) for blob in base.shards)
        assert node.status("agent")["phase"] == "finished"
        jobs = node.trainer.jobs if node.trainer else []
        assert [(job.round, job.train, job.merges) for job in jobs] == [
            (1, True, 0),
            (2, True, 1),
            (3, False, 2),
        ]
    assert {(s["node"], s["merges"]) for s in events(core, "score-published")} == {
        (node, merges) for node in ("fr-1", "de-1") for merges in range(3)
    }
    assert used <= MAX_ANONYMOUS_BYTES
    check_receipt(nodes[0])
    check_egress(nodes[0])


def check_receipt(node: NodeUnderTest) -> None:
    both = json.loads((node.home.receipts / "run.2.json").read_bytes())
    contribution = Envelope.from_json(both["contribution"])
    said = contribution.open_as(Contribution, node.key.public_key)
    assert said.train_ms is not None and said.bytes
    assert said.environment["airlock"] == "none", "this agent was started without rules"
    receipt = Envelope.from_json(both["receipt"]).open_as(Receipt, setup.load_consortium(node.home).core_key)
    assert (receipt.contribution, receipt.round, receipt.node) == (contribution.digest, said.round, node.name)


def check_egress(node: NodeUnderTest) -> None:
    table = egress_table(node.home)
    counts = {kind: sum(line["kind"] == kind for line in table) for kind in {line["kind"] for line in table}}
    assert counts["delta-shard"] == 2 * len(LAYOUT.shards)
    assert counts["contribution"] == 2 and counts["enrolment"] == 1
    assert counts["result"] == 3  # two rounds and the final score
    assert [line["time"] for line in table] == sorted(line["time"] for line in table)
    requests = [line for line in table if line["kind"] == "requests"]
    traffic = node.status("agent")["traffic"]
    # a thread may begin a last request while the agent ends
    assert 0 <= traffic["requests"] - sum(line["count"] for line in requests) <= 2
    assert 0 <= traffic["proof_bytes"] - sum(line["bytes"] for line in requests) <= 4096


AGENT_POINTS = {
    "node.head.before-save": 2,
    "node.head.after-save": 1,
    "node.ledger.before-save": 1,
    "node.attestation.signed": 1,
    "node.attestation.sent": 1,
    "node.contribution.signed": 1,
    "node.contribution.committed": 1,
    "node.contribution.sent": 2,
    "node.contribution.receipted": 1,
}
"""Failpoint → at which reach the agent dies."""


def test_all_failpoints_of_the_agent_are_tested() -> None:
    assert set(AGENT_POINTS) == {name for name in failpoints.NAMES if name.startswith("node.")}


@pytest.mark.long
@pytest.mark.parametrize("point", AGENT_POINTS)
def test_killed_at_any_point_it_goes_on(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path, point: str
) -> None:
    plan = make_plan(tmp_path / "seed", min_nodes=1, quorum=1, witnesses=1, reveal_s=30.0)
    start_run(core, plan, tmp_path / "seed")
    node = make_node("fr")
    node.start_role("gate")
    node.trainer = FakeTrainer(node.home, 1.0)
    agent = node.start_role("agent", "--once", TAPESTRY_FAILPOINT=f"{point}:{AGENT_POINTS[point]}")
    assert agent.wait(60) == -9
    signed = memory(node).runs["run"].contribution if node.home.agent_state.exists() else None
    node.start_role("agent", "--once")
    finished(node)
    assert view(core).head.merges == 2
    received = events(core, "contribution-revealed")
    assert [(e["round"], e["node"]) for e in received] == [(1, "fr-1"), (2, "fr-1")]
    if signed is not None:  # what was signed before the kill is what was sent
        envelope = Envelope.from_bytes(signed.envelope.encode())
        assert envelope.digest in {e["contribution"] for e in received}
    assert events(core, "contribution-refused") == events(core, "contribution-late") == []
    assert memory(node).runs["run"].head.state == view(core).head.state  # type: ignore[union-attr]


def test_the_core_goes_away_and_comes_back(
    core: CoreUnderTest, make_node: MakeNode, plan: Plan, tmp_path: Path
) -> None:
    start_run(core, plan, tmp_path / "seed")
    port = core.url.rsplit(":", 1)[1]
    nodes = [make_node("fr"), make_node("de")]
    nodes[0].start(1.0)
    wait_until(lambda: run_of(nodes[0]).get("merges") == 0)
    core.kill()
    told = wait_until(lambda: nodes[0].status("agent").get("trouble"))
    assert "cannot be reached" in told
    assert nodes[0].status("agent")["phase"] == "waiting for the core"
    toml = core.root / "core.toml"
    toml.write_text(re.sub(r"port = 0", f"port = {port}", toml.read_text()))
    nodes[1].start(2.0)  # begins while nobody is there
    wait_until(lambda: "waiting" in nodes[1].status("agent").get("phase", ""))
    core.start()
    finished(*nodes)
    assert nodes[0].status("agent").get("trouble") is None
    assert view(core).head.merges == 2


def nan_in_round_1(job: TrainJob) -> list[bytes]:
    data = shards(float("nan") if job.round == 1 else 2.0)
    assert struct.unpack("<f", data[0][-4:])[0] != 2.0 or job.round > 1
    return data


def test_a_refused_contribution_is_told_and_the_next_round_goes_on(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "seed", quorum=1, deadline_s=4.0)
    start_run(core, plan, tmp_path / "seed")
    bad, good = make_node("fr"), make_node("de")
    bad.start(make=nan_in_round_1)
    good.start(3.0)
    note = wait_until(lambda: run_of(bad).get("note"))
    assert "round 1 was refused" in note and "not-finite" in note
    finished(bad, good)
    assert [(e["round"], e["node"]) for e in events(core, "contribution-refused")] == [(1, "fr-1")]
    assert {(e["round"], e["node"]) for e in events(core, "contribution-accepted")} >= {
        (1, "de-1"),
        (2, "fr-1"),
    }
    assert run_of(bad)["replayed"] == 2


def test_what_the_gate_refuses_is_told_and_the_next_round_goes_on(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "seed", quorum=1, deadline_s=4.0)
    start_run(core, plan, tmp_path / "seed")
    bad, good = make_node("fr"), make_node("de")
    bad.start(make=lambda job: shards(1.0)[: 1 if job.round == 1 else None])
    good.start(3.0)
    note = wait_until(lambda: run_of(bad).get("note"))
    assert "gate refused round 1" in note and "shards" in note
    finished(bad, good)
    assert (2, "fr-1") in {(e["round"], e["node"]) for e in events(core, "contribution-accepted")}
    assert bad.status("gate")["refused"] == 1


def test_a_node_that_comes_late_fetches_and_one_that_publishes_nothing(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "seed", total=3, min_nodes=1, quorum=1)
    start_run(core, plan, tmp_path / "seed")
    first, late = make_node("fr", publish="none"), make_node("de", publish="scores")
    held = Held(3)
    first.start(make=held.make)
    wait_until(lambda: view(core).head.merges == 2)
    late.start(2.0)
    wait_until(lambda: "de-1" in view(core).enrolled)
    held.release()
    finished(first, late)
    kept = memory(late).runs["run"]
    assert kept.head is not None and kept.head.state == view(core).head.state
    assert (kept.fetched, kept.replayed) == (1, 1)
    assert {s["node"] for s in events(core, "score-published")} == {"de-1"}
    kinds = {line["kind"] for line in egress_table(first.home)}
    assert "score" not in kinds and "contribution" in kinds
    own = memory(first).runs["run"].contribution
    assert own is not None and own.said.train_ms is None and own.said.bytes


class Held:
    """A trainer that waits before one round."""

    def __init__(self, round: int) -> None:
        self._round = round
        self._open = False

    def make(self, job: TrainJob) -> list[bytes]:
        if job.round == self._round:
            wait_until(lambda: self._open)
        return shards(float(job.round))

    def release(self) -> None:
        self._open = True


def test_keys_change_and_end_in_the_middle_of_a_run(
    core: CoreUnderTest, make_node: MakeNode, plan: Plan, tmp_path: Path
) -> None:
    start_run(core, plan, tmp_path / "seed")
    nodes = [make_node("fr"), make_node("de")]
    held = Held(2)
    nodes[0].start(make=held.make)
    nodes[1].start(2.0)
    wait_until(lambda: run_of(nodes[0]).get("training") == 2)
    setup.rotate(nodes[0].home.root, nodes[0].member_dir)
    held.release()
    finished(*nodes)
    assert view(core).head.merges == 2
    assert {(e["round"], e["node"]) for e in events(core, "contribution-accepted")} == {
        (r, n) for r in (1, 2) for n in ("fr-1", "de-1")
    }
    setup.revoke(nodes[1].home.root, nodes[1].member_dir)
    agent = nodes[1].start_role("agent")
    assert agent.wait(60) == 4
    assert nodes[1].status("agent")["error"]["code"] == "key"
    last = json.loads(nodes[1].log().splitlines()[-1])
    assert "revoked" in last["error"]["message"]


def test_old_blobs_go_and_lost_ones_come_back(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    seed = tmp_path / "seed"
    plan = make_plan(seed, total=5, min_nodes=1, quorum=1)
    plan = plan.model_copy(update={"retention": plan.retention.model_copy(update={"blob_rounds": 2})})
    start_run(core, plan, seed)
    node = make_node("fr")
    held = Held(5)
    node.start(make=held.make)
    wait_until(lambda: run_of(node).get("training") == 5)
    node.processes["agent"].terminate()
    assert node.wait() == 0
    state = State.from_bytes(node.store.read(view(core).head.state))
    base = Artifact.from_bytes(node.store.read(state.base))
    for blob in base.shards[:2]:
        node.store.path(blob.sha256).write_bytes(b"damaged")
    held.release()
    node.start_role("agent", "--once")
    finished(node)
    assert memory(node).runs["run"].head.state == view(core).head.state  # type: ignore[union-attr]
    deltas = [e["delta"] for e in events(core, "contribution-received")]
    assert [node.store.has(delta) for delta in deltas] == [False, False, False, True, True]
    committed = events(core, "round-committed")
    assert [node.store.has(e["base"]) for e in committed] == [False, False, False, True, True]


def test_a_blob_that_the_trainer_finds_damaged_is_fetched_anew(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "seed", total=1, min_nodes=1, quorum=1)
    start_run(core, plan, tmp_path / "seed")
    node = make_node("fr").start(train=False, once=False)
    wait_until(node.home.job.exists)
    head = State.from_bytes(node.store.read(plan.initial_state))
    base = Artifact.from_bytes(node.store.read(head.base))
    lost, damaged = base.shards[0], base.shards[-1]
    node.store.path(lost.sha256).unlink()
    node.store.path(damaged.sha256).write_bytes(b"damaged")
    time.sleep(0.5)
    assert not node.store.has(lost.sha256)  # nobody has asked for it
    error = {"code": "hash-mismatch", "message": "a blob is corrupt", "hint": None}
    write_status(node.home, "trainer", {"phase": "failed", "error": error})
    wait_until(lambda: '"mended"' in node.log())
    for blob in (lost, damaged):
        assert BlobFolder(node.home.blobs).read(blob.sha256, blob.bytes)


def test_a_run_the_owner_did_not_choose(core: CoreUnderTest, make_node: MakeNode, tmp_path: Path) -> None:
    start_run(core, make_plan(tmp_path / "seed", min_nodes=1, quorum=1), tmp_path / "seed")
    node = make_node("fr", runs=("other-*",))
    node.start(1.0)
    wait_until(lambda: node.status("agent").get("phase") == "waiting for a run")
    assert view(core).enrolled == ()
    assert not node.home.job.exists()


def test_state_that_cannot_be_read_ends_the_agent(core: CoreUnderTest, make_node: MakeNode) -> None:
    node = make_node("fr")
    node.home.agent_state.write_bytes(b"torn")
    agent = node.start_role("agent")
    assert agent.wait(60) == 2
    error = node.status("agent")["error"]
    assert error["code"] == "settings" and "agent.json" in error["message"] and error["hint"]
