"""Several nodes of one member: each contributes, and together they weigh no more than one member may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.core.views import environments, round_record
from tapestry.errors import Conflict, NotFound
from tapestry.node import keys, setup
from tapestry.node.home import Home
from tapestry.node.member import member_init
from tapestry.protocol.plan import Plan
from tapestry.rounds.weights import UNIT
from tapestry.training.spool import TrainJob
from tests.core.support import CoreUnderTest, Member, code, shards
from tests.core.support import make_plan as small_plan
from tests.federation.many import ManyFederation, make_plan
from tests.node.support import NodeUnderTest, wait_until

MEMBERS = {"acme-1": "acme", "acme-2": "acme", "birch-1": "birch"}
HALF, QUARTER = UNIT // 2, UNIT // 4


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreUnderTest]:
    """One for all tests: each has its own members and its own run."""
    core = CoreUnderTest(tmp_path_factory.mktemp("many-nodes") / "core")
    yield core.start()
    core.close()


def capped(folder: Path, run: str, *, cap: float, weighting: str = "tokens", **rounds: Any) -> Plan:
    plan = small_plan(folder, run=run, **rounds)
    merge = plan.merge.model_copy(update={"influence_cap": cap, "weighting": weighting})
    return plan.model_copy(update={"merge": merge})


# -- over HTTP -----------------------------------------------------------------------------------


class Second(Member):
    """A further node of a member."""

    @property
    def node(self) -> str:
        return f"{self.name}-2"


@pytest.fixture
def three(core: CoreUnderTest) -> Iterator[tuple[Member, Member, Member]]:
    """Two nodes of one member, and one of another."""
    number = len(core.members)
    ada, bob = core.member(f"ada{number}"), core.member(f"bob{number}")
    other = Second(ada.name, core.consortium, root=ada.root, url=core.url)
    assert other.join("a-token-of-no-use").status_code == 200
    yield ada, other, bob
    other.http.close()


def start(core: CoreUnderTest, plan: Plan, folder: Path, *members: Member) -> None:
    operator.plan(core.root, plan, folder)
    operator.start(core.root, plan.run)
    for member in members:
        assert member.enrol(plan).status_code == 200


def test_the_cap_is_a_members(
    core: CoreUnderTest, three: tuple[Member, Member, Member], tmp_path: Path
) -> None:
    for number, (cap, weighting, expected) in enumerate(
        (
            (1.0, "tokens", (1 / 4, 1 / 2, 1 / 4)),  # positive control: no cap
            (0.6, "tokens", (0.2, 0.4, 0.4)),
            (0.5, "equal", (0.25, 0.25, 0.5)),
        )
    ):
        plan = capped(tmp_path, f"cap-{number}", cap=cap, weighting=weighting, total=1, min_nodes=3)
        start(core, plan, tmp_path, *three)
        for node, tokens, cpu in zip(three, (1000, 2000, 1000), ("A", "B", "A"), strict=True):
            node.hand_in(plan, 0.5, tokens=tokens, environment={"cpu": cpu, "threads": "2"})
        three[0].wait(lambda view: view.head.merges == 1, plan.run)
        with Core.open(core.root) as opened:
            merged = round_record(opened.journal, opened.store, plan.run, 1).merged
            told = environments(opened.store, opened.runs.standing(plan.run).state)
        weights = {one.node: one.weight for one in merged}
        assert sum(weights.values()) == UNIT
        assert [weights[node.node] / UNIT for node in three] == pytest.approx(expected, abs=2e-7)
        assert [told[node.node]["cpu"] for node in three] == ["A", "B", "A"]


def test_a_quorum_of_one_members_nodes_waits_for_another_member(
    core: CoreUnderTest, three: tuple[Member, Member, Member], tmp_path: Path
) -> None:
    """And a node that is withdrawn leaves the member's other one in the run."""
    plan = capped(tmp_path, "quorum", cap=0.5, total=2, min_nodes=3, quorum=2, deadline_s=0.5)
    ada, other, bob = three
    start(core, plan, tmp_path, *three)
    ada.hand_in(plan, 0.5)
    other.hand_in(plan, 0.25)
    wait_until(lambda: "influence cap" in (operator.view(core.root, "quorum").waiting_for or ""))
    view = ada.view("quorum")
    assert view.current is not None
    standing = {node.node: (node.member, node.status) for node in view.current.nodes}
    assert standing == {
        ada.node: (ada.name, "accepted"),
        other.node: (ada.name, "accepted"),
        bob.node: (bob.name, None),
    }
    bob.hand_in(plan, 0.5)
    state = ada.wait(lambda v: v.head.merges == 1, "quorum").head.state
    operator.withdraw(core.root, "quorum", other.node)
    late = other.contribution(plan, "1" * 64, round=2, state=state)
    assert code(other.contribute(late, "quorum")) == "refused"
    assert code(other.enrol(plan)) == "refused"
    for node in (ada, bob):
        node.hand_in(plan, 0.5, round=2, state=state)
    done = ada.wait(lambda v: v.status == "finished", "quorum")
    assert done.enrolled == (ada.node, bob.node)


# -- names ---------------------------------------------------------------------------------------


def test_a_name_is_one_nodes(core: CoreUnderTest, tmp_path: Path) -> None:
    for member in ("oak", "elm"):
        member_init(tmp_path / member, member)
    oak, elm = tmp_path / "oak", tmp_path / "elm"
    token = operator.invite(core.root, "oak")
    for folder, name in (("one", "oak-1"), ("twin", "oak-1"), ("two", "oak-2")):
        setup.init(tmp_path / folder, oak, name, tmp_path / "text")
    setup.join(tmp_path / "one", core.url, token, member_dir=oak)
    with pytest.raises(Conflict, match="has a node oak-1 already") as refused:
        setup.join(tmp_path / "twin", core.url, token, member_dir=oak)
    assert "another name" in str(refused.value.hint)
    setup.join(tmp_path / "one", core.url, token, member_dir=oak)  # again: no effect
    setup.init(tmp_path / "thief", elm, "oak-1", tmp_path / "text")
    with pytest.raises(Conflict, match="oak-1 belongs to member oak"):
        setup.join(tmp_path / "thief", core.url, operator.invite(core.root, "elm"), member_dir=elm)

    # the home of oak-1 is lost: its key is ended from another home, and the name is free again
    setup.join(tmp_path / "two", core.url, token, member_dir=oak)
    with pytest.raises(NotFound, match="no node oak-7"):
        setup.revoke(tmp_path / "two", oak, node="oak-7")
    ended = setup.revoke(tmp_path / "two", oak, "compromised", node="oak-1")
    assert ended == keys.load_pair(Home(tmp_path / "one")).key_id
    setup.join(tmp_path / "twin", core.url, token, member_dir=oak)
    with setup.connect(Home(tmp_path / "twin")) as client:
        found = client.members()["members"]
    standing = {
        (key["node"], key["key_id"] == ended): key["revoked"] is not None
        for each in found
        if each["member"] == "oak"
        for key in each["keys"]
        if key["role"] == "node"
    }
    assert standing == {("oak-1", True): True, ("oak-1", False): False, ("oak-2", False): False}


# -- nodes ---------------------------------------------------------------------------------------


class Further(NodeUnderTest):
    """A further node of a member that has joined."""

    def __init__(self, folder: Path, first: NodeUnderTest, name: str) -> None:
        self.name = name
        self.core = first.core
        self.member_dir = first.member_dir
        self.home = setup.init(folder / f"node-{name}", self.member_dir, name, folder / "text")
        setup.join(self.home.root, self.core.url, "a-token-of-no-use", member_dir=self.member_dir)
        self.processes = {}
        self.trainer = None


def test_one_node_of_a_member_is_revoked_and_the_other_goes_on(core: CoreUnderTest, tmp_path: Path) -> None:
    """Real agents and gates; the trainers are stand-ins."""
    plan = capped(tmp_path / "seed", "revoked", cap=0.5, total=3, min_nodes=2, quorum=2)
    operator.plan(core.root, plan, tmp_path / "seed")
    acme, birch = NodeUnderTest(tmp_path, core, "acme"), NodeUnderTest(tmp_path, core, "birch")
    second = Further(tmp_path, acme, "acme-2")
    nodes = (acme, second, birch)
    revoked: list[str] = []

    def held(job: TrainJob) -> list[bytes]:
        if job.round > 1:
            wait_until(lambda: revoked)
        return shards(float(job.round))

    try:
        for node in nodes:
            node.start(make=held)
        wait_until(lambda: len(operator.view(core.root, "revoked").enrolled) == 3)
        operator.start(core.root, "revoked")
        wait_until(lambda: operator.view(core.root, "revoked").head.merges >= 1)
        ended = setup.revoke(acme.home.root, acme.member_dir, "compromised", node="acme-2")
        assert ended == second.key.key_id
        revoked.append(ended)
        assert second.wait() == 4 and "revoked" in second.log()
        assert acme.wait() == 0 and birch.wait() == 0, acme.log()
    finally:
        for node in nodes:
            node.stop()
    with Core.open(core.root) as opened:
        view = operator.view(core.root, "revoked")
        assert (view.status, view.enrolled) == ("finished", ("acme-1", "birch-1"))
        rounds = [round_record(opened.journal, opened.store, "revoked", n + 1).merged for n in range(3)]
    weights = [{one.node: one.weight for one in merged} for merged in rounds]
    assert weights[0] == {"acme-1": QUARTER, "acme-2": QUARTER, "birch-1": HALF}
    assert weights[-1] == {"acme-1": HALF, "birch-1": HALF}


# -- everything real -----------------------------------------------------------------------------


@pytest.mark.long
def test_two_nodes_of_one_member_beside_another(tmp_path: Path) -> None:
    """Both count, together up to the cap. One's key is revoked, from the other's home; the rest goes on."""
    plan = make_plan(tmp_path / "seed", "run", nodes=2, rounds=4, steps=40, merge={"influence_cap": 0.5})
    federation = ManyFederation(
        tmp_path / "all",
        plans=[plan],
        seed_blobs=tmp_path / "seed",
        members=MEMBERS,
        threads={"acme-2": 2},
        started=(),
    )
    revoked: list[str] = []

    def start_and_revoke() -> None:
        view = federation.view()
        if view.status == "planned" and len(view.enrolled) == 3:
            operator.start(federation.core, "run")
        if not revoked and view.head.merges:
            federation.leave_out("acme-2")
            home, folder = federation.node("acme-1"), federation.member("acme")
            revoked.append(setup.revoke(home, folder, "compromised", node="acme-2"))

    try:
        federation.start()
        federation.keep_going(timeout_s=150, between=start_and_revoke)
        assert federation.process("acme-2").wait(30) == 4
    finally:
        federation.stop()
    assert "revoked" in federation.log("acme-2")
    weights = [{m.node: m.weight for m in r.merged} for r in federation.records("run")]
    assert len(weights) == 4
    assert weights[0] == {"acme-1": QUARTER, "acme-2": QUARTER, "birch-1": HALF}
    assert weights[-1] == {"acme-1": HALF, "birch-1": HALF}
    for each in weights:  # whether or not acme-2 had sent its update when its key ended
        assert each["birch-1"] == HALF
    check_status(federation)


def check_status(federation: ManyFederation) -> None:
    """What operator and member see, node by node."""
    seen = read_json(federation, "run", "status", "--core", str(federation.core), "--json")
    assert (seen["status"], seen["enrolled"]) == ("finished", ["acme-1", "birch-1"])
    assert {"acme-1", "birch-1"} <= set(seen["scores"]) <= set(MEMBERS)
    assert {len(seen["scores"][node]) for node in ("acme-1", "birch-1")} == {5}
    trained_on = seen["environments"]
    assert {node: said["threads"] for node, said in trained_on.items()} == {
        "acme-1": "1",
        "acme-2": "2",
        "birch-1": "1",
    }
    assert all(said["cpu"] and said["torch"] and said["isolation"] for said in trained_on.values())
    at_birch = read_json(federation, "node", "status", str(federation.node("birch-1")), "--json")
    assert at_birch["environments"] == {"run": {node: trained_on[node] for node in ("acme-1", "birch-1")}}
    core = read_json(federation, "core", "status", str(federation.core), "--json")
    held = {(m["member"], key["node"]) for m in core["members"] for key in m["keys"]}
    assert held == {("acme", "acme-1"), ("acme", "acme-2"), ("birch", "birch-1")}


def read_json(federation: ManyFederation, *arguments: str) -> dict[str, Any]:
    done = federation.cli(*arguments)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value
