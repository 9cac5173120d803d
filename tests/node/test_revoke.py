"""A dataset is withdrawn at its node: what it touched is listed, and nothing made of it leaves any more."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import withdrawal
from tapestry.cli import planfile, replayplan
from tapestry.errors import Busy, InputError, NotFound, PlanError, SettingsError
from tapestry.host import files
from tapestry.node import listing
from tapestry.node import revoke as revoking
from tapestry.node.gate import Gate
from tapestry.node.held import Held
from tapestry.node.home import Home
from tapestry.node.revoke import LOCK, Revoked, revoke
from tapestry.node.touched import Contribution, Run, Touched, Use
from tapestry.protocol import canonical
from tapestry.protocol.plan import Plan, Rounds, Witness
from tapestry.training.spool import TrainJob, TrainResult
from tapestry.training.withdrawals import MANIFESTS, Withdrawals
from tests.core.support import EMPTY, CoreUnderTest, make_plan, shards
from tests.governance.planner import made
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest, wait_until, write_output
from tests.node.test_agent import events, memory, start_run
from tests.node.test_gate import home, job

__all__ = ["home", "job"]

ROUNDS = 6
FIRST = withdrawal.first_use(ROUNDS)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A node whose ledger has a run of eight nodes; this one used the dataset from the middle on."""
    return withdrawal.make(tmp_path_factory.mktemp("long"), ROUNDS)


def quiet(home: Home, name: str = withdrawal.DATASET, **more: Any) -> Revoked:
    return revoke(home, name, tell=False, **more)


def trained_on(home: Home, dataset: str = "letters", sha: str = EMPTY) -> None:
    """A data manifest that names a dataset."""
    folder = home.cache / MANIFESTS
    folder.mkdir(parents=True, exist_ok=True)
    card = {"name": dataset, "root": canonical.sha256(dataset.encode())}
    (folder / f"{sha}.json").write_bytes(canonical.encode({"cards": [card]}))


def test_all_it_touched_is_listed(long: Home) -> None:
    found = quiet(long, reason="asked for").touched
    assert [(c.round, c.merged_in, c.node, c.status) for c in found.contributions] == [
        (n, n, withdrawal.USER, "accepted") for n in range(FIRST, ROUNDS + 1)
    ]
    assert all(c.weight for c in found.contributions)
    (run,) = found.runs
    assert run.first is not None and (run.first.round, run.first.merges) == (FIRST, FIRST - 1)
    assert run.first.state == canonical.sha256(f"state {FIRST - 1}".encode())
    assert [base.round for base in run.bases] == list(range(FIRST, ROUNDS + 1))
    assert run.finished and found.entries > ROUNDS * 20


def test_what_it_did_not_touch_is_not(long: Home) -> None:
    trained_on(long, "poems", canonical.sha256(b"poems"))
    found = quiet(long, "poems").touched
    assert not found.contributions and not found.runs
    with pytest.raises(PlanError, match="no base descends"):
        replayplan.choose(found, None)


def test_the_plan_begins_with_the_last_base_without_it(long: Home, tmp_path: Path) -> None:
    found = quiet(long).touched
    path = tmp_path / "again.toml"
    said = replayplan.write(path, found, replayplan.choose(found, None), "letters")
    assert replayplan.write(path, found, replayplan.choose(found, None), "letters") == said
    read = planfile.load(path)
    assert read.origin is not None and read.model is None
    use = found.runs[0].first
    assert use is not None
    assert (read.origin.run, read.origin.round, read.origin.state) == ("long", FIRST - 1, use.state)
    assert read.run.name == "long-without-letters"
    before = found.plans[use.plan]
    made = read.plan(model="0" * 64, layout="1" * 64, initial_state=use.state, parameters=1).model_dump(
        mode="json"
    )
    for table in ("inner", "codec", "merge", "streaming", "evaluation", "retention"):
        assert made[table] == before[table], table
    rounds = made["rounds"] | {"min_nodes": 8, "quorum": 8}
    assert rounds == before["rounds"] and (made["rounds"]["quorum"], said["merges_to_repeat"]) == (7, 3)
    assert all(c.isprintable() or c == "\n" for c in path.read_text())
    other = replayplan.write(tmp_path / "b.toml", found, replayplan.choose(found, "long"), "l" * 64)
    assert len(other["run"]) <= 64 and other["run"].startswith("long-without-")
    with pytest.raises(InputError, match="cannot be a file"):
        replayplan.write(tmp_path / "no" / "c.toml", found, replayplan.choose(found, None), "letters")
    path.write_text("something else")
    with pytest.raises(Exception, match="says something else"):
        replayplan.write(path, found, replayplan.choose(found, None), "letters")


def lowered(plan: Plan, nodes: dict[str, str]) -> dict[str, Any]:
    """Thresholds of the plan of a run without node x, and what was changed, for these nodes and members."""
    use = Use(2, 1, "2" * 64, plan.digest, (*nodes, "x"), "contribution")
    used = Contribution("run", 2, "x", "x", "0" * 64, "1" * 64, "3" * 64)
    found = Touched(9, {plan.digest: plan.model_dump(mode="json")}, [used], [Run("run", use)], nodes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.toml"
        said = replayplan.write(path, found, found.runs[0], "letters")
        read = planfile.load(path)
        for name, each in said["lowered"].items():
            assert f"# {name} was {each['from']}: no more than {each['to']} are left" in path.read_text()
    return {
        "min_nodes": read.rounds.min_nodes,
        "quorum": read.rounds.quorum,
        "witnesses": read.witness.quorum,
        "lowered": sorted(said["lowered"]),
    }


def test_a_quorum_is_of_the_members_that_are_left() -> None:
    """Two nodes of one member are one witness: a quorum of as many members as nodes would never be found."""
    four = plan_of(min_nodes=4, quorum=3, witnesses=3)
    assert lowered(four, {"a-1": "a", "a-2": "a", "b-1": "b"}) == {
        "min_nodes": 3, "quorum": 3, "witnesses": 2, "lowered": ["rounds.min_nodes", "witness.quorum"],
    }  # fmt: skip
    assert lowered(four, {"a-1": "a", "b-1": "b", "c-1": "c", "d-1": "d"})["lowered"] == []
    assert lowered(plan_of(min_nodes=4, quorum=3, witnesses=2), {"a-1": "a", "b-1": "b", "c-1": "c"}) == {
        "min_nodes": 3, "quorum": 3, "witnesses": 2, "lowered": ["rounds.min_nodes"],
    }  # fmt: skip


def test_a_quorum_is_of_the_witnesses_that_are_left() -> None:
    named = plan_of(min_nodes=4, quorum=3, witnesses=2, members=("a", "x"))
    assert lowered(named, {"a-1": "a", "b-1": "b", "c-1": "c"})["witnesses"] == 1
    with pytest.raises(PlanError, match="none of the plan's witnesses is left: a, x") as e:
        lowered(named, {"b-1": "b", "c-1": "c"})
    assert "witness.members" in str(e.value.hint)


def plan_of(*, min_nodes: int, quorum: int, witnesses: int, members: tuple[str, ...] = ()) -> Plan:
    return made.plan(
        rounds=Rounds(total=4, min_nodes=min_nodes, quorum=quorum),
        witness=Witness(quorum=witnesses, members=members),
    )


def test_the_same_again_has_no_effect(long: Home) -> None:
    first = quiet(long, reason="one")
    paths = (Withdrawals(long.root).path("letters"), long.state / "withdrawn.json")
    before = [path.read_bytes() for path in paths]
    again = quiet(long, reason="two")
    assert not again.anew and again.mark == first.mark
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("at", [0, 1])
def test_killed_anywhere_it_is_finished_by_the_next_call(
    home: Home, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write either was or was not; the mark comes first, since it stops the trainer."""
    trained_on(home)
    whole = files.write_atomic
    done: list[str] = []

    def cut(path: Path, *args: Any, **more: Any) -> None:
        if len(done) == at:
            raise KeyboardInterrupt
        done.append(path.name)
        whole(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", cut)
        with pytest.raises(KeyboardInterrupt):
            quiet(home)
    assert done == ["letters.json"][:at]
    assert bool(Withdrawals(home.root).marks()) == bool(at)
    assert quiet(home).manifests == (EMPTY,)
    assert Held(home).covers(EMPTY) and Withdrawals(home.root).covers_manifest(EMPTY)


def test_bad_input_is_said(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="has no dataset nothing"):
        quiet(home, "nothing")
    with pytest.raises(InputError, match="cannot be a dataset's name"):
        quiet(home, "../nothing")
    trained_on(home)
    with pytest.raises(InputError, match="one line"):
        quiet(home, reason="a\nb")
    with pytest.raises(SettingsError, match="not a node's home"):
        quiet(Home(tmp_path / "nowhere"))
    assert not Withdrawals(home.root).marks()
    found = quiet(home)
    assert found.touched == Touched() and found.ledger is not None  # it holds no ledger yet
    Withdrawals(home.root).path("letters").write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        Withdrawals(home.root).covers_manifest(EMPTY)


def test_the_gate_lets_nothing_of_it_pass(home: Home, job: TrainJob) -> None:
    trained_on(home)
    quiet(home)
    write_output(home, job, shards(2.0))
    Gate(home, "all").step()
    assert not home.passed("run", 1).exists() and not home.egress_log.exists()
    told = json.loads(home.refusal("run", 1).read_bytes())
    assert told["code"] == "rights" and "withdrawn" in told["reason"]


def other_text(home: Home) -> None:
    trained_on(home)
    trained_on(home, "poems", canonical.sha256(b"poems"))
    quiet(home, "poems")


@pytest.mark.parametrize("before", [trained_on, other_text])
def test_the_gate_lets_other_text_pass(home: Home, job: TrainJob, before: Callable[[Home], None]) -> None:
    """The control."""
    before(home)
    write_output(home, job, shards(2.0))
    Gate(home, "all").step()
    assert home.passed("run", 1).exists()


def test_where_something_was_withdrawn_an_unknown_manifest_does_not_pass(home: Home, job: TrainJob) -> None:
    other_text(home)
    (home.cache / MANIFESTS / f"{EMPTY}.json").unlink()
    write_output(home, job, shards(2.0))
    Gate(home, "all").step()
    assert not home.passed("run", 1).exists()


@pytest.mark.parametrize("withdrawn", [True, False])
def test_what_was_committed_is_not_revealed(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path, withdrawn: bool
) -> None:
    """The bytes are still at the node when the text is withdrawn; without that they leave."""
    plan = make_plan(tmp_path / "seed", total=1, deadline_s=600.0, reveal_s=3.0)
    start_run(core, plan, tmp_path / "seed")
    node: NodeUnderTest = make_node("ada")
    trained_on(node.home)
    node.start(once=False)
    other = core.member("bob")
    assert other.enrol(plan).status_code == 200
    wait_until(lambda: events(core, "contribution-committed"), what=node.log())
    if withdrawn:
        revoke(node.home, "letters", tell=False)
    envelope = other.contribution(plan, other.send_delta(1.0))
    assert other.contribute(envelope).status_code == 200
    sealed = wait_until(lambda: events(core, "round-sealed"))
    assert sealed
    if withdrawn:
        wait_until(lambda: memory(node).runs["run"].contribution.outcome == "refused", what=node.log())  # type: ignore[union-attr]
        assert "withdrawn" in str(memory(node).runs["run"].contribution)
        assert not events(core, "contribution-revealed")
    else:
        wait_until(lambda: events(core, "contribution-revealed"), what=node.log())


# -- what went on from it ----------------------------------------------------------------------------


@pytest.mark.parametrize("chained", [True, False])
def test_other_text_that_went_on_from_it_does_not_leave(home: Home, job: TrainJob, chained: bool) -> None:
    """Moments, parameters and residual of the round are of the withdrawn text too; without them it leaves."""
    trained_on(home, "poems")
    trained_on(home, "letters", "a" * 64)
    folder = write_output(home, job, shards(2.0))
    if chained:
        (folder / "inner" / "manifests.json").write_bytes(canonical.encode(["a" * 64]))
    delta = canonical.sha256((folder / "delta.json").read_bytes())
    done = quiet(home)
    assert done.manifests == ("a" * 64,) and not Held(home).covers(EMPTY)
    assert (done.kept == ("run.1",)) is Held(home).covers(EMPTY, delta) is chained
    Gate(home, "all").step()
    assert home.passed("run", 1).exists() is not chained


def test_what_passed_the_gate_before_is_held_back(home: Home, job: TrainJob) -> None:
    trained_on(home, "poems")
    trained_on(home, "letters", "a" * 64)
    folder = write_output(home, job, shards(2.0))
    (folder / "inner" / "manifests.json").write_bytes(canonical.encode(["a" * 64]))
    Gate(home, "all").step()
    result = TrainResult.from_bytes(home.passed("run", 1).read_bytes())
    assert not Held(home).covers(result.data_manifest, result.delta)
    quiet(home)
    assert Held(home).covers(result.data_manifest, result.delta)


# -- several at once ---------------------------------------------------------------------------------


def test_two_at_once_lose_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads what is held back, and then writes it: whoever comes second must find what the first wrote.
    The first waits a while before it writes, so that without the lock the second would not."""
    trained_on(home)
    trained_on(home, "poems", "a" * 64)
    waited: list[bool] = []
    whole, other = files.write_atomic, threading.Event()

    def slow(path: Path, *args: Any, **more: Any) -> None:
        if path.name == "withdrawn.json":
            if threading.current_thread() is first:
                waited.append(other.wait(0.5))
            else:
                other.set()
        whole(path, *args, **more)

    monkeypatch.setattr(files, "write_atomic", slow)
    first = threading.Thread(target=quiet, args=(home,))
    first.start()
    quiet(home, "poems")
    first.join()
    assert Held(home).covers(EMPTY) and Held(home).covers("a" * 64) and waited
    with files.Lock(home.state / LOCK), pytest.raises(Busy):
        monkeypatch.setattr(revoking, "PATIENCE_S", 0.05)
        quiet(home)


# -- manifests that are lost -------------------------------------------------------------------------


def test_a_manifest_that_is_lost_counts_as_withdrawn(home: Home, job: TrainJob) -> None:
    """What has passed the gate and was not sent: nobody can tell any more what it was trained on."""
    trained_on(home)
    trained_on(home, "poems", "a" * 64)
    write_output(home, job, shards(2.0))
    Gate(home, "all").step()
    assert quiet(home, "poems").lost == () and not Held(home).covers(EMPTY)  # the control
    (home.cache / MANIFESTS / f"{EMPTY}.json").unlink()
    done = quiet(home, "poems")
    assert (done.lost, done.manifests) == ((EMPTY,), ("a" * 64,)) and Held(home).covers(EMPTY)


def test_what_it_may_have_touched_is_listed(long: Home, tmp_path: Path) -> None:
    """From the ledger, where the spool is long gone."""
    copy = Home(tmp_path / "copy")
    shutil.copytree(long.root, copy.root)
    trained_on(copy, "poems", "a" * 64)
    assert quiet(copy, "poems").touched.contributions == []
    gone = [p for p in (copy.cache / MANIFESTS).iterdir() if withdrawal.DATASET in p.read_text()]
    for path in gone:
        path.unlink()
    done = quiet(copy, "poems")
    assert list(done.lost) == [path.stem for path in gone] and Held(copy).covers(done.lost[0])
    assert [c.round for c in done.touched.contributions] == list(range(FIRST, ROUNDS + 1))


def test_without_card_and_manifest_nothing_is_written(home: Home, job: TrainJob) -> None:
    write_output(home, job, shards(2.0))
    before = sorted(path for path in home.root.rglob("*") if path.name != LOCK)
    with pytest.raises(NotFound, match="1 data manifest of its rounds cannot be read") as e:
        quiet(home)
    assert "cards/letters.json" in str(e.value.hint) and "same again" in str(e.value.hint)
    assert sorted(path for path in home.root.rglob("*") if path.name != LOCK) == before


def test_the_take_back_is_tried_where_it_was_published(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on(home)
    assert revoke(home, "letters").listing == "never published"
    home.egress_messages.write_text('{"kind": "catalog-entry", "name": "letters"}\n')
    assert revoke(home, "letters").listing.startswith("still published: ")
    asked: list[Any] = []
    monkeypatch.setattr(listing, "publish", lambda *args, **more: asked.append(more["take_back"]))
    assert (revoke(home, "letters").listing, asked) == ("taken back", [("letters",)])
