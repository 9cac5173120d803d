"""One node in several runs at once: through one trainer, fairly, and to the end whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.node.home import write_status
from tapestry.node.status import node_status
from tapestry.protocol.artifact import Artifact
from tapestry.rounds.events import ContributionReceived
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.federation import many
from tests.federation.many import ManyFederation
from tests.node.support import NodeUnderTest, wait_until

# -- real agent and gate; the trainer is a stand-in ------------------------------------------------


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreUnderTest]:
    """One for all tests; each has its own node and its own runs."""
    core = CoreUnderTest(tmp_path_factory.mktemp("many-runs") / "core").start()
    toml = core.root / "core.toml"  # at the same address again when it is started again
    toml.write_text(toml.read_text().replace("port = 0", f"port = {core.url.rsplit(':', 1)[1]}"))
    yield core
    core.close()


Begin = Callable[..., NodeUnderTest]


@pytest.fixture
def begin(core: CoreUnderTest, tmp_path: Path) -> Iterator[Begin]:
    """Starts runs of two rounds, `longer` ones of three, and makes a node that takes part in them alone."""
    made: list[NodeUnderTest] = []

    def begin(*runs: str, longer: str = "") -> NodeUnderTest:
        for run in runs:
            total = 3 if run == longer else 2
            plan = make_plan(tmp_path / "seed", run=run, total=total, min_nodes=1, quorum=1)
            operator.plan(core.root, plan, tmp_path / "seed")
            operator.start(core.root, run)
        made.append(NodeUnderTest(tmp_path, core, runs[0], runs=runs))
        return made[-1]

    yield begin
    for node in made:
        node.stop()


def finished(core: CoreUnderTest, *runs: str) -> bool:
    return all(operator.view(core.root, run).status == "finished" for run in runs)


def turns(node: NodeUnderTest) -> list[tuple[str, int]]:
    """What was trained, in this order."""
    assert node.trainer is not None
    return [(job.run, job.round) for job in node.trainer.jobs if job.train]


def told(node: NodeUnderTest) -> dict[str, dict[str, Any]]:
    """What the agent says of each run."""
    return dict(node.status("agent").get("runs") or {})


def test_every_run_has_its_turn(core: CoreUnderTest, begin: Begin) -> None:
    runs = ("ash", "birch", "cedar")
    node = begin(*runs)

    def others_want_it(job: TrainJob) -> bool:
        had = [run for run, _ in turns(node)]
        return len(told(node)) == len(runs) and all(
            each["training"] == had.count(run) + 1 or each["finished"]
            for run, each in told(node).items()
            if run != job.run
        )

    def make(job: TrainJob) -> list[bytes]:
        wait_until(lambda: others_want_it(job))
        return shards(float(job.round))

    node.start(make=make)
    assert node.wait() == 0, node.log()
    assert finished(core, *runs)
    had = [run for run, _ in turns(node)]
    counts = [[had[:done].count(run) for run in runs] for done in range(1, len(had) + 1)]
    assert counts[-1] == [2, 2, 2]
    assert all(max(each) - min(each) <= 1 for each in counts), had


def test_the_trainer_goes_on_while_an_update_waits_for_the_core(core: CoreUnderTest, begin: Begin) -> None:
    runs = ("elm", "fir")
    node = begin(*runs)
    away: list[bool] = []

    def make(job: TrainJob) -> list[bytes]:
        wait_until(lambda: away)
        return shards(float(job.round))

    node.start(make=make)
    wait_until(lambda: len(told(node)) == 2 and all(run["training"] for run in told(node).values()))
    core.kill()
    away.append(True)
    wait_until(lambda: len(turns(node)) == 2, what="one run waits for the other's update to be taken in")
    assert sorted(turns(node)) == [("elm", 1), ("fir", 1)]
    core.start()
    assert node.wait() == 0, node.log()
    assert finished(core, *runs)


def test_what_ails_one_run_holds_up_no_other(core: CoreUnderTest, begin: Begin) -> None:
    """The gate refuses hazel's update; ivy's base is lost, at the core too; the operator withdraws the node
    from juniper; and the agent is killed. Kapok goes on."""
    hazel, ivy, juniper, kapok = runs = ("hazel", "ivy", "juniper", "kapok")
    node = begin(*runs, longer=juniper)  # or it could be finished before the operator withdraws the node
    there = BlobStore.open(core.root / "blobs")
    allowed: list[bool] = []

    def lose(job: TrainJob) -> list[bytes]:
        """The trainer ends with an error, and what it lacks is not to be had."""
        lost = Artifact.from_bytes(there.read(job.base)).shards[0].sha256
        error = {"code": "not-found", "message": f"blob {lost} is not here", "hint": None}
        there.delete(lost)
        node.store.delete(lost)
        write_status(node.home, "trainer", {"phase": "failed", "error": error})
        return []

    def make(job: TrainJob) -> list[bytes]:
        if job.run == ivy:  # its base is another than that of the others
            return shards(2.0) if job.round == 1 else lose(job)
        if (job.run, job.round) == (kapok, 1) and (ivy, 1) in turns(node):
            wait_until(lambda: told(node)[ivy]["training"] == 2)  # so that ivy's turn comes first
        if (job.run, job.round) == (kapok, 2):
            wait_until(lambda: allowed)
        return shards(1.0)[: 1 if job.run == hazel else None]

    node.start(make=make, once=False)
    wait_until(lambda: (kapok, 2) in turns(node))
    operator.withdraw(core.root, juniper, node.name)
    assert "withdrawn" in wait_until(lambda: told(node)[juniper]["note"])
    node.processes["agent"].kill()
    node.processes["agent"].wait()
    node.start_role("agent")
    wait_until(lambda: len(told(node)) == len(runs))
    allowed.append(True)
    wait_until(lambda: finished(core, kapok), what=f"{turns(node)}\n{node.log()}")
    assert "gate refused round 1" in wait_until(lambda: told(node)[hazel]["note"])
    assert turns(node).count((hazel, 1)) == 1


# -- real trainers -------------------------------------------------------------------------------


def check_environment(federation: ManyFederation) -> None:
    """On what it was trained, for the operator and for the member."""
    done = federation.cli("run", "status", "--core", str(federation.core), "--run", "ash", "--json")
    assert done.returncode == 0, done.stderr
    trained_on = json.loads(done.stdout)["environments"]["a"]
    assert trained_on["threads"] == "1" and trained_on["torch"] and trained_on["cpu"]
    seen = node_status(federation.node("a"))["environments"]
    assert set(seen) == set(federation.plans) and seen["ash"] == {"a": trained_on}


@dataclass
class Killer:
    """Kills roles of a node, each while its trainer is in the middle of a round of a run.

    The runs to be disturbed start when the calm ones are over.
    """

    federation: ManyFederation
    calm: tuple[str, ...]
    due: list[tuple[str, tuple[str, ...]]]
    """Run that is trained, and roles to kill then."""
    done: list[str] = field(default_factory=list)
    _started: bool = False
    _round: tuple[str, int] = ("", 0)

    def __call__(self) -> None:
        if not self._started:
            told = self.federation.status("a", "agent").get("runs", {})
            if all(told.get(run, {}).get("finished") for run in self.calm):
                for run in self.federation.plans.keys() - set(self.calm):
                    operator.start(self.federation.core, run)
                self._started = True
        elif self.due:
            self._kill(*self.due[0])

    def _kill(self, run: str, roles: tuple[str, ...]) -> None:
        told = self.federation.status("a", "trainer")
        at = (str(told.get("run")), int(told.get("round") or 0))
        if told.get("phase") != "training" or at[0] != run or at == self._round:
            return
        killed = [self.federation.kill_role("a", role) for role in roles]
        if all(killed):
            self._round = at
            self.done.append(f"{'+'.join(roles)} in {run}.{at[1]}")
            self.due.pop(0)


def disturbed(
    tmp_path: Path, due: list[tuple[str, tuple[str, ...]]], *, rounds: int, timeout_s: float
) -> None:
    """Two runs of different models at once, undisturbed, and then both again with kills: the same bases."""
    seed = tmp_path / "seed"
    calm, wild = ("ash-calm", "birch-calm"), ("ash", "birch")
    plans = [
        many.make_plan(seed, run, nodes=1, rounds=rounds, steps=60, hidden_size=16 if "ash" in run else 24)
        for run in (*calm, *wild)
    ]
    assert plans[2].layout != plans[3].layout
    federation = ManyFederation(
        tmp_path / "all", plans=plans, seed_blobs=seed, members={"a": "a"}, started=calm
    )
    killer = Killer(federation, calm, due)
    try:
        federation.start()
        federation.keep_going(timeout_s=timeout_s, between=killer)
    finally:
        federation.stop()
    print(killer.done)
    assert killer.due == []
    check_environment(federation)
    for undisturbed, run in zip(calm, wild, strict=True):
        bases = federation.bases(run)
        assert len(set(bases)) == rounds
        assert bases == federation.bases(undisturbed), run
    received = [event for run in calm for event in federation.events(run, ContributionReceived)]
    order = [event.round for event in sorted(received, key=lambda event: event.received_ms)]
    assert order == sorted(order), f"the runs did not take turns: {order}"


@pytest.mark.long
def test_killed_in_the_middle_of_both_runs_the_bases_are_the_same(tmp_path: Path) -> None:
    due = [("ash", ("agent",)), ("birch", ("agent", "trainer"))]
    disturbed(tmp_path, due, rounds=3, timeout_s=150)


@pytest.mark.long
def test_killed_often_in_the_middle_of_both_runs(tmp_path: Path) -> None:
    roles = [("trainer",), ("agent",), ("agent", "trainer"), ("gate", "agent"), ("replay",)]
    due = [(run, each) for each in roles * 2 for run in ("ash", "birch")]
    disturbed(tmp_path, due, rounds=30, timeout_s=1200)
