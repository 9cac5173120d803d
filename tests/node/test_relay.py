"""Progress on its way to the core; and what the owner is told of trouble."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.errors import Fork
from tapestry.host import files
from tapestry.node import child, relay
from tapestry.node.agent import Agent
from tapestry.node.home import Home
from tapestry.node.outbox import Outbox
from tapestry.node.relay import Relay
from tapestry.node.session import Order
from tapestry.protocol.messages import Progress
from tapestry.training.spool import TrainJob
from tapestry.transport.client import CoreClient
from tests.core.support import CoreUnderTest
from tests.node.conftest import MakeNode
from tests.node.test_gate import home, job, job_of
from tests.transport.stub import CONSORTIUM, KEY, StubCore, served

__all__ = ["home", "job"]


class Scene:
    """A trainer whose progress the gate lets pass, and a core that counts what it is told."""

    def __init__(self, home: Home, stub: StubCore, client: CoreClient) -> None:
        self.home, self.told = home, 0
        self.relay = Relay(home, client, Outbox(home, client.traffic))
        stub.answers["/v1/runs/run/progress"] = self._answer

    def _answer(self) -> tuple[int, dict[str, str], bytes]:
        self.told += 1
        return 200, {}, b"{}"

    def writes(self, step: int, round: int = 1) -> None:
        said = Progress(round=round, step=step, steps=10, loss=1.5, tokens_per_s=100.0)
        files.write_atomic(self.home.progress, said.to_bytes())


@pytest.fixture
def scene(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(relay, "EVERY_S", 0.0)
    with served(StubCore()) as stub, CoreClient(stub.url, CONSORTIUM, KEY, read_s=5) as client:
        yield Scene(home, stub, client)


def test_what_is_new_of_the_job_is_handed_on(scene: Scene, job: TrainJob) -> None:
    order = Order.of(scene.home, job)
    scene.writes(1)
    scene.relay.tell(order, quiet=False)
    scene.relay.tell(order, quiet=False)
    assert scene.told == 0, "it is of the job before"
    for step in (2, 3):
        scene.writes(step)
        scene.relay.tell(order, quiet=False)
        scene.relay.tell(order, quiet=False)
    assert scene.told == 2
    scene.writes(4)
    scene.relay.tell(order, quiet=True)
    assert scene.told == 2
    scene.relay.tell(order, quiet=False)
    assert scene.told == 3
    scene.writes(5, round=2)
    scene.relay.tell(order, quiet=False)
    assert scene.told == 3, "of another round than the job's"


@pytest.mark.parametrize("every_s", [0.0, 60.0])
def test_not_too_often(scene: Scene, job: TrainJob, monkeypatch: pytest.MonkeyPatch, every_s: float) -> None:
    order = Order.of(scene.home, job)
    scene.relay.tell(order, quiet=False)
    scene.writes(1)
    scene.relay.tell(order, quiet=False)
    monkeypatch.setattr(relay, "EVERY_S", every_s)
    scene.writes(2)
    scene.relay.tell(order, quiet=False)
    assert scene.told == (2 if every_s == 0 else 1)


def test_nothing_is_said_of_scoring(scene: Scene, job: TrainJob) -> None:
    order = Order.of(scene.home, job_of(job.plan, train=False))
    scene.relay.tell(order, quiet=False)
    scene.writes(1)
    scene.relay.tell(order, quiet=False)
    assert scene.told == 0


def test_the_way_out_of_trouble_is_in_the_status(
    core: CoreUnderTest, make_node: MakeNode, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A fork is waited out, so what to do about it must be seen while the node runs."""
    at = make_node("ada").home
    agent = Agent(at, child.Status(at, "agent"), once=True)
    try:
        agent._stumble("run", Fork("two histories", hint="ask the operator"))
    finally:
        agent.close()
    said = json.loads(at.status("agent").read_bytes())
    assert (said["trouble"], said["hint"]) == ("two histories", "ask the operator")
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines() if "trouble" in line]
    assert logged[-1]["hint"] == "ask the operator"
