"""What leaves waits for the owner's word, where the owner wants to be asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tapestry.cli.main import app
from tapestry.errors import NotFound
from tapestry.node.approval import Approvals
from tapestry.node.gate import Gate
from tapestry.node.home import Home
from tapestry.training.spool import TrainJob
from tests.core.support import shards
from tests.node.support import write_output
from tests.node.test_gate import home, job, lines

__all__ = ["home", "job"]


def gate(home: Home) -> Gate:
    return Gate(home, "all", approve=True)


def passed(home: Home) -> bool:
    return home.passed("run", 1).exists()


def test_nothing_leaves_before_the_owner_has_said_so(home: Home, job: TrainJob) -> None:
    asking = gate(home)
    write_output(home, job, shards(3.0))  # no blob of the base
    asking.step()
    approvals = Approvals(home)
    (waiting,) = approvals.pending()
    assert waiting.name == "run.1" and not passed(home) and not lines(home)
    assert not any((home.blobs / a.sha256[:2] / a.sha256).exists() for a in waiting.artifacts)
    approvals.decide("run.1", passes=True)
    asking.step()
    assert passed(home) and not approvals.pending()
    said = [(line["kind"], line["name"], line["bytes"], line["sha256"]) for line in lines(home)]
    assert said == [(a.kind, a.name, a.bytes, a.sha256) for a in waiting.artifacts]


def test_without_asking_it_leaves_at_once(home: Home, job: TrainJob) -> None:
    """The control."""
    write_output(home, job, shards(1.0))
    Gate(home, "all").step()
    assert passed(home)


def test_the_word_is_for_these_bytes(home: Home, job: TrainJob) -> None:
    asking = gate(home)
    write_output(home, job, shards(1.0))
    asking.step()
    Approvals(home).decide("run.1", passes=True)
    shutil.rmtree(home.output("run", 1))
    write_output(home, job, shards(2.0))  # the trainer puts another in its place
    asking.step()
    assert not passed(home) and len(Approvals(home).pending()) == 1
    Approvals(home).decide("run.1", passes=True)
    asking.step()
    assert passed(home)


def test_what_the_owner_refuses_stays(home: Home, job: TrainJob) -> None:
    asking = gate(home)
    write_output(home, job, shards(1.0))
    asking.step()
    Approvals(home).decide("run.1", passes=False, reason="not yet")
    asking.step()
    told = json.loads(home.refusal("run", 1).read_bytes())
    assert told["code"] == "owner-refused" and "not yet" in told["reason"]
    assert not passed(home) and not lines(home) and not Approvals(home).pending()


def test_a_gate_that_is_started_again_asks_again_and_knows_the_word(home: Home, job: TrainJob) -> None:
    write_output(home, job, shards(1.0))
    gate(home).step()
    gate(home).step()
    assert len(Approvals(home).pending()) == 1
    Approvals(home).decide("run.1", passes=True)
    gate(home).step()
    assert passed(home)
    with pytest.raises(NotFound, match="nothing called"):
        Approvals(home).decide("run.1", passes=True)


def test_the_commands(home: Home, job: TrainJob, tmp_path: Path) -> None:
    def call(*words: str) -> str:
        done = CliRunner().invoke(app, ["node", "egress", *words])
        assert done.exit_code == 0, done.output
        return done.output

    asking = gate(home)
    write_output(home, job, shards(1.0))
    asking.step()
    root = str(home.root)
    assert json.loads(call(root, "--json")) == json.loads(call("list", root, "--json")) == {"egress": []}
    assert [each["name"] for each in json.loads(call("pending", root, "--json"))["pending"]] == ["run.1"]
    assert "run.1" in call("pending", root)
    assert "run.1 may leave" in call("approve", root, "--all")
    asking.step()
    assert passed(home) and "nothing waits" in call("pending", root)
    assert "delta-shard" in call(root)
    assert CliRunner().invoke(app, ["node", "egress", "approve", root, "run.1"]).exit_code != 0
