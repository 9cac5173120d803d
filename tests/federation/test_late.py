"""A contribution that comes after its round: merged with the next one, or refused, as the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.core.views import round_record
from tapestry.identity.envelope import Envelope
from tapestry.protocol.messages import Contribution
from tapestry.rounds.weights import UNIT
from tapestry.training.spool import TrainJob
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node.support import NodeUnderTest, wait_until

ROUNDS = 4


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreUnderTest]:
    core = CoreUnderTest(tmp_path / "core")
    yield core.start()
    core.close()


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_slow_node(core: CoreUnderTest, tmp_path: Path, staleness: int) -> None:
    """Real core, agents and gates; the trainers are stand-ins, one of which takes until round 1 was merged.
    With no lateness allowed its work is lost; both ways every node repeats every merge."""
    plan = make_plan(
        tmp_path / "seed",
        run="late",
        total=ROUNDS,
        min_nodes=2,
        quorum=1,
        deadline_s=5.0,
        staleness=staleness,
    )
    operator.plan(core.root, plan, tmp_path / "seed")
    quick, slow = NodeUnderTest(tmp_path, core, "acme"), NodeUnderTest(tmp_path, core, "birch")

    def late(job: TrainJob) -> list[bytes]:
        if job.round == 1:
            wait_until(lambda: operator.view(core.root, "late").head.merges >= 1)
        return shards(1.0)

    try:
        quick.start(make=lambda job: shards(float(job.round)))
        slow.start(make=late)
        wait_until(lambda: len(operator.view(core.root, "late").enrolled) == 2)
        operator.start(core.root, "late")
        assert (quick.wait(), slow.wait()) == (0, 0), slow.log()
    finally:
        quick.stop()
        slow.stop()
    with Core.open(core.root) as opened:
        records = [round_record(opened.journal, opened.store, "late", n + 1) for n in range(ROUNDS)]
    trained = [{said.node: said.round for said in map(_said, record.envelopes)} for record in records]
    assert trained[0] == {"acme-1": 1}
    lateness = {r.round - at["birch-1"] for r, at in zip(records, trained, strict=True) if "birch-1" in at}
    assert max(lateness) == (1 if staleness else 0)
    if staleness:
        assert trained[1] == {"acme-1": 2, "birch-1": 1}
        weights = {merged.node: merged.weight for merged in records[1].merged}
        assert weights["birch-1"] == pytest.approx(UNIT / 3, abs=1), "half as much as in time"
    for node in (quick, slow):
        assert node.status("agent")["runs"]["late"]["replayed"] == ROUNDS


def _said(envelope: str) -> Contribution:
    return Envelope.from_bytes(envelope.encode()).unverified(Contribution)
