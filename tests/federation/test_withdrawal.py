"""A dataset is withdrawn in the middle of a run, by the commands a person would type: its node stops, what it
touched is listed, and the run repeated without it ends with the very base of a run that never had it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.node.status import node_status
from tapestry.protocol.artifact import State
from tapestry.protocol.plan import Merge, Retention, Rounds, Witness
from tapestry.protocol.views import RunView
from tapestry.storage.blobs import BlobStore
from tapestry.training.export import Lineage, export
from tapestry.training.model import initial_state
from tests.federation.support import CONFIG, Federation
from tests.sovereign import made

pytestmark = pytest.mark.long  # in one process, and always: tests/training/test_withdrawal.py
TOTAL = 6
STEPS = 2


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(
        tmp_path,
        seed_blobs=tmp_path / "seed",
        rounds=TOTAL,
        steps=STEPS,
        nodes=2,
        witness=Witness(quorum=0),
        merge=Merge(outer_rate=0.7, outer_momentum=0.6),
        retention=Retention(inner_rounds=TOTAL),
    )
    yield made
    made.stop()


def until(federation: Federation, what: Callable[[], Any], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, federation.tails()
        time.sleep(0.01)


def say(*words: object) -> Any:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tapestry.cli.main", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stop(federation: Federation, name: str) -> None:
    process = federation._processes[name]
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def base(federation: Federation, view: RunView) -> str:
    with Core.open(federation.core) as core:
        return State.from_bytes(core.store.read(view.head.state)).base


def derivatives(federation: Federation, root: Path) -> None:
    """Two that member `a` has published: one on the newest base, one on the model that the run began with."""
    head = operator.view(federation.core, "run").head
    for name, state, at in (("on-it", head.state, head.round), ("before", federation.plan.initial_state, 0)):
        exported = root / f"base-{name}"
        with Core.open(federation.core) as core:
            lineage = Lineage(plan=federation.plan.digest, rounds=at, members=(), tokens=0)
            export(State.from_bytes(core.store.read(state)), core.store, exported, lineage)
        made.changed(exported, root / name / "model", made.noise(6))
        made.finished(root / name, exported, owner="a", name=name)
        say("build", "publish", root / name, "--node", federation.node("a"))


def test_a_run_repeated_without_a_withdrawn_dataset(federation: Federation, tmp_path: Path) -> None:
    core, users = federation.core, federation.node("b")
    rules = federation.plan.rounds.model_copy(update={"min_nodes": 1, "quorum": 1, "reveal_s": None})
    alone = federation.plan.model_copy(
        update={"rounds": Rounds.model_validate(rules.model_dump()), "revision": 2}
    )
    operator.revise(core, alone)
    federation._spawn("core")
    for name in ("a", "b"):
        federation._join(name, operator.invite(core, name))
    federation._spawn("a")
    until(federation, lambda: federation.view().head.merges >= 1)
    stop(federation, "a")
    federation._spawn("b")
    until(federation, lambda: "b" in federation.view().enrolled)
    alone_until = federation.view().current
    assert alone_until is not None
    federation._spawn("a")
    until(federation, lambda: federation.view().head.round > alone_until.round)
    federation.kill("a")  # so that the run is not over before the command has started
    federation._processes["a"].wait()

    marked = say("catalog", "revoke", "text", "--home", users, "--offline")
    federation._spawn("a")
    until(federation, lambda: federation._processes["b"].poll() is not None)
    assert "rule withdrawn" in federation.log("b")
    told = node_status(users)
    assert told["withdrawn"] == ["text"] and "rule withdrawn" in told["trouble"]
    found = say("catalog", "revoke", "text", "--home", users, "--offline", "--plan", tmp_path / "again.toml")
    assert found["withdrawn_at"] == marked["withdrawn_at"]
    first = alone_until.round + 1
    assert found["plan"]["from_round"] == found["runs"][0]["first"]["round"] == first
    assert {each["node"] for each in found["contributions"]} == {"b"}
    operator.withdraw(core, "run", "b")
    until(federation, lambda: federation._processes["a"].poll() is not None)
    with_it = base(federation, operator.view(core, "run"))
    derivatives(federation, tmp_path)
    named = say("catalog", "revoke", "text", "--home", users)
    assert named["derivatives"] == [{"member": "a", "derivative": "on-it"}], "not the one on the first base"

    planned = say("run", "plan", tmp_path / "again.toml", "--core", core)
    seed = tmp_path / "never"
    model, _, state, _ = initial_state("never", CONFIG, "byte", 7, 1 << 14, BlobStore.open(seed))
    never = alone.model_copy(
        update={"run": "never", "revision": 1, "model": model.digest, "initial_state": state.digest}
    )
    operator.plan(core, never, seed)
    for run in (planned["run"], "never"):
        operator.start(core, run)
    federation._spawn("a")
    until(federation, lambda: federation._processes["a"].poll() is not None)
    repeated = operator.view(core, planned["run"])
    assert (repeated.status, repeated.head.merges) == ("finished", TOTAL), federation.tails()
    assert base(federation, repeated) == base(federation, operator.view(core, "never")) != with_it
    with Core.open(core) as opened:
        entries = opened.journal.of_round(planned["run"], first, "round-opened")
    assert len(entries) == 1  # it counts on
    merges = say("run", "recompute", "--core", core, "--run", planned["run"])["rounds"]
    assert [each["verdict"] for each in merges] == ["same"] * (TOTAL - found["plan"]["merges_kept"])
