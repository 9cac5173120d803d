"""A withdrawn dataset: training stops at the next batch, nothing of the round is left, and a run that is
repeated without it from the middle comes to the same bytes as one that never had it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import RightsRefused
from tapestry.protocol.artifact import State
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Merge, Origin, Plan, Retention, Rounds
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import UNIT
from tapestry.training import trainer as trainers
from tapestry.training.home import Status, TrainerHome
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TrainJob, TrainResult
from tapestry.training.trainer import Trainer
from tapestry.training.withdrawals import Withdrawals
from tests.cards import give_card

from .support import RUN, Node

pytestmark = pytest.mark.usefixtures("one_thread")
TOTAL = 3
FIRST_USE = 2
WITHOUT = "without"


def make_trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    home.clean()
    return Trainer(home, TrainerSettings.load(node.root), Status(home))


def mark(node: Node, dataset: str = "text", roots: tuple[str, ...] = ()) -> None:
    Withdrawals(node.root).put(Withdrawn(dataset=dataset, at="2026-11-22T06:00:00.000Z", roots=roots))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home", checkpoint_s=1e-6)


class AtStep:
    """Withdraws the dataset when so many steps are done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: Node, step: int) -> None:
        self.steps, self._node, self._step = 0, node, step
        monkeypatch.setattr(trainers.failpoints, "reach", self.reach)

    def reach(self, name: str) -> None:
        self.steps += name == "trainer.step"
        if name == "trainer.step" and self.steps == self._step:
            mark(self._node)


def test_training_stops_at_the_next_batch(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = AtStep(monkeypatch, node, 2)
    with pytest.raises(RightsRefused, match="rule withdrawn"):
        make_trainer(node).do(node.job(1))
    assert steps.steps == 3  # the step that was being taken, and no other
    assert list(node.out.iterdir()) == []
    with pytest.raises(RightsRefused, match="rule withdrawn"):  # nor after a restart
        make_trainer(node).do(node.job(1))


def test_without_the_mark_the_round_is_finished(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the mark elsewhere all steps are taken."""
    monkeypatch.setattr(Withdrawals, "covers", lambda *_: False)
    steps = AtStep(monkeypatch, node, 2)
    assert make_trainer(node).do(node.job(1))
    assert steps.steps == 6


def test_a_finished_round_of_withdrawn_text_is_no_finished_round(node: Node) -> None:
    """Once the node has other text, the round is trained anew, from no moments of the old."""
    worker = make_trainer(node)
    assert worker.do(node.job(1))
    mark(node)
    with pytest.raises(RightsRefused):
        make_trainer(node).do(node.job(1))
    text = node.root / "corpus" / "train.jsonl"
    text.write_text(text.read_text().replace("voll", "leer"))
    (node.root / "cards" / "text.json").unlink()
    give_card(node.root, node.root / "corpus", name="other")
    before = node.result(1)
    assert make_trainer(node).do(node.job(1))
    assert node.result(1).data_manifest != before.data_manifest
    assert TrainerHome(node.root).before(node.job(2))  # of the new text
    mark(node, "other")
    assert not TrainerHome(node.root).before(node.job(2))


def test_the_same_documents_are_refused_under_another_name(node: Node) -> None:
    card = give_card(node.root, node.root / "corpus", replace=True).card
    mark(node, "gone")
    assert make_trainer(node).do(node.job(1))
    mark(node, "gone", (card.content.root,))
    with pytest.raises(RightsRefused, match="rule withdrawn"):
        make_trainer(node).do(node.job(2))


# -- the run repeated ------------------------------------------------------------------------------


@dataclass
class Members:
    """Nodes with texts of their own, and merges of what they make: all real but what carries it."""

    nodes: dict[str, Node]
    plan: Plan

    @classmethod
    def make(cls, root: Path, names: str) -> Members:
        nodes = {}
        for name in names:
            made = Node.make(root / name, steps=2)
            for path in sorted((made.root / "corpus").iterdir()):
                path.write_text(path.read_text().replace("Maß", f"Maß {name}"))
            give_card(made.root, made.root / "corpus", replace=True)
            toml = made.root / "node.toml"
            toml.write_text(toml.read_text().replace("acme-1", f"{name}-1"))
            nodes[name] = made
        first = nodes[names[0]].plan
        plan = first.model_copy(
            update={
                "rounds": Rounds(total=TOTAL),
                "merge": Merge(outer_rate=0.7, outer_momentum=0.6),
                "retention": Retention(inner_rounds=TOTAL),
            }
        )
        return cls(nodes, plan)

    def run(self, plan: Plan, start: str, who: dict[int, str], store: Node) -> list[str]:
        """States after each round from `start` on; `who` takes part in which."""
        states = [start]
        workers = {name: make_trainer(node) for name, node in self.nodes.items()}
        for number, names in who.items():
            state = State.from_bytes(store.store.read(states[-1]))
            results = []
            for name in names:
                node = self.nodes[name]
                for blob in store.store.iterate():
                    node.store.adopt(store.store.path(blob.sha256), blob.sha256, durable=False)
                node.store.put(plan.to_bytes())
                assert workers[name].do(_job(plan, number, state))
                results.append((name, self._gathered(plan, number, node, store)))
            states.append(_merge(plan, states[-1], results, store))
        return states

    def _gathered(self, plan: Plan, number: int, node: Node, store: Node) -> TrainResult:
        folder = node.out / f"{plan.run}.{number}"
        for path in folder.iterdir():
            if path.is_file() and path.name != "result.json":
                store.store.put(path.read_bytes())
        return TrainResult.from_bytes((folder / "result.json").read_bytes())


def _job(plan: Plan, number: int, state: State) -> TrainJob:
    return TrainJob(
        run=plan.run, plan=plan, round=number, merges=state.merges, state=state.digest, base=state.base,
        train=True, evaluate=False,
    )  # fmt: skip


def _merge(plan: Plan, state: str, results: list[tuple[str, TrainResult]], store: Node) -> str:
    each = UNIT // len(results)
    weights = [each + UNIT - each * len(results), *[each] * (len(results) - 1)]
    merged = tuple(
        Merged(node=f"{name}-1", member=name, contribution="0" * 64, delta=str(result.delta), weight=weight)
        for (name, result), weight in zip(results, weights, strict=True)
    )
    job = MergeJob.of(plan, state=state, contributions=merged, durable=False)
    return Engine(store.store).merge(job).state


def base(store: Node, state: str) -> str:
    return State.from_bytes(store.store.read(state)).base


def began(members: Members, name: str) -> str | None:
    folder = members.nodes[name].out / f"{WITHOUT}.{FIRST_USE}"
    return TrainResult.from_bytes((folder / "result.json").read_bytes()).environment.get("inner")


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The last base of a run that c never took part in."""
    root = tmp_path_factory.mktemp("never")
    members = Members.make(root, "ab")
    store = Node.make(root / "core")
    states = members.run(members.plan, store.state.digest, dict.fromkeys(range(1, TOTAL + 1), "ab"), store)
    yield base(store, states[-1])


@pytest.mark.parametrize("case", ["kept", "reset", "left in"])
def test_a_run_repeated_without_it_is_as_if_it_had_never_been(case: str, never: str, tmp_path: Path) -> None:
    members = Members.make(tmp_path, "abc")
    store = Node.make(tmp_path / "core")
    who: dict[int, str] = {n: "ab" if n < FIRST_USE else "abc" for n in range(1, TOTAL + 1)}
    states = members.run(members.plan, store.state.digest, who, store)
    assert base(store, states[-1]) != never
    mark(members.nodes["c"])
    if case == "reset":
        for name in "ab":
            for number in range(1, FIRST_USE):
                folder = TrainerHome(members.nodes[name].root).result(RUN, number)
                (folder / "inner").rename(folder.with_name(f"gone-{number}"))
    begins = states[FIRST_USE - 1]
    origin = Origin(run=RUN, round=FIRST_USE - 1, merges=FIRST_USE - 1, plan=members.plan.digest)
    values: dict[str, Any] = {"run": WITHOUT, "initial_state": begins, "origin": origin}
    plan = Plan.from_bytes(members.plan.model_copy(update=values).to_bytes())
    if case == "left in":
        Withdrawals(members.nodes["c"].root).path("text").unlink()
    again = members.run(
        plan, begins, dict.fromkeys(range(FIRST_USE, TOTAL + 1), "abc" if case == "left in" else "ab"), store
    )
    assert began(members, "a") == ("reset" if case == "reset" else "kept")
    assert (base(store, again[-1]) == never) is (case == "kept")
    later = TrainResult.from_bytes(
        (members.nodes["a"].out / f"{WITHOUT}.{TOTAL}" / "result.json").read_bytes()
    )
    assert "inner" not in later.environment
