"""The core's clock is the only one that decides: a node whose own is an hour off takes part like any other.

What matters is the difference, so it is the core whose clock is set forward or back here; the node's
processes have the machine's.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tapestry.core import operator, serve
from tapestry.core.clock import now_ms
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import setup
from tapestry.protocol import canonical
from tapestry.protocol.clock import seconds_between
from tapestry.protocol.messages import Enrolment, Receipt
from tests.core import support
from tests.core.support import CoreUnderTest, code, make_plan, time_at
from tests.node.support import NodeUnderTest

HOUR_S = 3600.0


def _serve_ahead(
    ahead_s: float, root: Path, ready: Connection, environment: dict[str, str], prepare: None
) -> None:
    """As `support._serve`, with a clock that is ahead of the machine's."""
    with open(root / "stderr.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ.update(environment, TAPESTRY_DIE_WITH_PARENT="1")
    serve.serve(root, ready=ready.send, clock=lambda: now_ms() + round(ahead_s * 1000))


@pytest.fixture(params=[-HOUR_S, HOUR_S], ids=["node-ahead", "node-behind"])
def ahead_s(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def core(tmp_path: Path, ahead_s: float, monkeypatch: pytest.MonkeyPatch) -> Iterator[CoreUnderTest]:
    monkeypatch.setattr(support, "_serve", functools.partial(_serve_ahead, ahead_s))
    core = CoreUnderTest(tmp_path / "core")
    yield core.start()
    core.close()


def test_a_node_an_hour_off_joins_trains_and_contributes(
    core: CoreUnderTest, ahead_s: float, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path / "seed", total=1, min_nodes=2, quorum=1, deadline_s=1.0)
    operator.plan(core.root, plan, tmp_path / "seed")
    operator.start(core.root, plan.run)
    # positive control: who signs by a clock of its own is refused, and told the time
    silent = core.member("de", join=False)
    certificate = silent.certificate(expires_s=2 * HOUR_S)
    assert silent.join(operator.invite(core.root, "de"), certificate).status_code == 200
    refused = silent.enrol(plan)
    assert (refused.status_code, code(refused)) == (401, "signature")
    assert seconds_between(time_at(), refused.headers["Tapestry-Time"]) == pytest.approx(ahead_s, abs=60)
    message = Enrolment(
        consortium=core.consortium, run=plan.run, plan=plan.digest, member="de", node=silent.node
    )
    target, body = f"/v1/runs/{plan.run}/enrolments", sign(message, silent.key).to_bytes()
    proof = silent.proof("POST", target, canonical.sha256(body), at=time_at(ahead_s))
    enrolled = silent.http.post(core.url + target, content=body, headers={"Authorization": proof})
    assert enrolled.status_code == 200, enrolled.text

    node = NodeUnderTest(tmp_path, core, "fr")
    try:
        node.start()
        assert node.wait() == 0, node.log()
    finally:
        node.stop()
    view = operator.view(core.root, "run")  # the other one never trained: the deadline is the core's too
    assert (view.status, view.head.merges, view.enrolled) == ("finished", 1, ("de-1", "fr-1"))
    both = json.loads((node.home.receipts / "run.1.json").read_bytes())
    receipt = Envelope.from_json(both["receipt"]).open_as(Receipt, setup.load_consortium(node.home).core_key)
    assert seconds_between(time_at(), receipt.received_at) == pytest.approx(ahead_s, abs=60)
    setup.rotate(node.home.root, node.member_dir)
    with setup.connect(node.home) as client:
        client.members()
