"""A node that may be late: what it keeps, what it wants of its trainer, and when it asks for nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.errors import NotFound
from tapestry.node.account import Meter
from tapestry.node.home import Home
from tapestry.node.memory import HeadMemory, Memory
from tapestry.node.prune import Pruner
from tapestry.node.session import Order, Session
from tapestry.protocol.artifact import Artifact, State
from tapestry.protocol.plan import Plan, Rounds
from tapestry.storage.blobs import BlobStore
from tapestry.training.spool import TrainJob
from tapestry.transport.connection import Traffic
from tests.core.support import artifact, make_plan, shards

RUN, NODE = "run", "n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make_folders()
    return home


def make_states(store: BlobStore, plan: Plan, count: int) -> list[State]:
    """Each with a base of its own."""
    found = []
    for merges in range(count):
        data = shards(merges + 10.0)
        for blob in data:
            store.put(blob)
        base = store.put(artifact("base", data).to_bytes())
        state = State(run=RUN, model=plan.model, merges=merges, base=base, outer=None)
        store.put(state.to_bytes())
        found.append(state)
    return found


@pytest.mark.parametrize("late", [True, False])
def test_a_base_that_is_trained_from_is_not_erased(home: Home, late: bool) -> None:
    store = BlobStore.open(home.blobs)
    plan = make_plan(home.blobs)
    memory = Memory(home)
    states = make_states(store, plan, 5)
    for number, state in enumerate(states):
        memory.set_head(RUN, HeadMemory(merges=number, state=state.digest, round=number))
    held = {states[1].digest} if late else set()
    Pruner(home, store, memory).prune(RUN, plan, [], held)
    assert [_whole(store, state) for state in states] == [False, late, False, True, True]
    assert memory[RUN].older == tuple(s.digest for s in states[1:4] if _whole(store, s))
    Pruner(home, store, memory).prune(RUN, plan, [])
    assert not _whole(store, states[1]), "and goes when nobody needs it any more"


def _whole(store: BlobStore, state: State) -> bool:
    try:
        for blob in Artifact.from_bytes(store.read(state.base)).shards:
            store.read(blob.sha256)
    except NotFound:
        return False
    return True


class Scene:
    """A session whose core is at the round the test says."""

    def __init__(self, home: Home, *, staleness: int) -> None:
        self.home = home
        self.plan = make_plan(home.blobs).model_copy(
            update={"rounds": Rounds(total=9, staleness=staleness), "run": RUN}
        )
        self.state = make_states(BlobStore.open(home.blobs), self.plan, 1)[0]
        self.receipted = 0
        head = HeadMemory(merges=0, state=self.state.digest, round=0)
        tools: Any = SimpleNamespace(
            home=home,
            node=NODE,
            member="m",
            library=SimpleNamespace(meter=Meter(), message=lambda sha, kind: self.state),
            memory={RUN: SimpleNamespace(head=head, contribution=None)},
            client=SimpleNamespace(traffic=Traffic()),
            submitter=SimpleNamespace(receipted_at=lambda run: self.receipted),
        )
        self.session = Session(RUN, tools)

    def wanted(self, round: int, *, phase: str = "training", sequence: int = 100) -> int | None:
        """Round of the job it wants when this one is open."""
        standing = SimpleNamespace(node=NODE, expected=True, status=None)
        at = SimpleNamespace(round=round, phase=phase, state=self.state.digest, nodes=(standing,))
        view: Any = SimpleNamespace(status="running", current=at, sequence=sequence)
        order = self.session._wanted(view, self.plan)
        self.session.order = order
        if order is not None:
            self.session._in_hand = order
        return None if order is None else order.job.round

    def give(self, order: Order | None) -> None:
        """To the trainer."""
        assert order is not None
        self.home.job.parent.mkdir(parents=True, exist_ok=True)
        self.home.job.write_bytes(order.data)


@pytest.mark.parametrize(("staleness", "expected"), [(0, [1, None, 2, 3]), (1, [1, 1, 1, 3])])
def test_a_round_that_may_be_late_is_finished(home: Home, staleness: int, expected: list[int | None]) -> None:
    scene = Scene(home, staleness=staleness)
    found = []
    for number, phase in ((1, "training"), (1, "merging"), (2, "training"), (3, "training")):
        found.append(scene.wanted(number, phase=phase))
        if scene.session.order is not None:
            scene.give(scene.session.order)
    assert found == expected


def test_a_job_the_trainer_never_had_is_not_late_but_over(home: Home) -> None:
    """It was another run's turn meanwhile."""
    scene = Scene(home, staleness=5)
    assert scene.wanted(1) == 1
    assert scene.wanted(2) == 2
    scene.give(scene.session.order)
    assert scene.wanted(3) == 2, "the control: this one it has"
    other = TrainJob.from_bytes(scene.session.order.data if scene.session.order else b"")
    scene.give(Order.of(home, other.model_copy(update={"run": "another"})))
    assert scene.wanted(4) == 4


def test_a_view_from_before_the_receipt_asks_for_nothing(home: Home) -> None:
    """It cannot show that a late contribution has entered the round that is open."""
    scene = Scene(home, staleness=2)
    scene.receipted = 77
    assert scene.wanted(4, sequence=70) is None
    assert scene.wanted(4, sequence=77) == 4
