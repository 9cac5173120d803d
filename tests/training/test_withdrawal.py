"""A withdrawn dataset: training stops at the next batch, nothing of the round is left, and a run that is
repeated without it from the middle comes to the same bytes as one that never had it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.errors import RightsRefused
from tapestry.host import files
from tapestry.node.home import Home
from tapestry.node.revoke import revoke
from tapestry.protocol.artifact import State
from tapestry.protocol.encoding import Codec, Fp4, TopK
from tapestry.protocol.messages import Merged
from tapestry.protocol.plan import Merge, Origin, Plan, Retention, Rounds, Streaming
from tapestry.replay.engine import Engine
from tapestry.replay.job import MergeJob
from tapestry.rounds.weights import UNIT
from tapestry.training import trainer as trainers
from tapestry.training.blobs import BlobFolder
from tapestry.training.home import Status, TrainerHome
from tapestry.training.island import ISLAND_OF_ONE
from tapestry.training.residual import Residual
from tapestry.training.settings import TrainerSettings
from tapestry.training.spool import TrainJob, TrainResult
from tapestry.training.stale import Removed
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


# -- other text, on top of it ------------------------------------------------------------------------


def other_text(node: Node, name: str = "other", *, old: str = "voll") -> None:
    """The node has other text, with a card of another name, as after a withdrawal or before one."""
    text = node.root / "corpus" / "train.jsonl"
    text.write_text(text.read_text().replace(old, name))
    for card in (node.root / "cards").glob("*.json"):
        card.unlink()
    give_card(node.root, node.root / "corpus", name=name)


@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_round_that_goes_on_from_it_begins_anew(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, withdrawn: bool
) -> None:
    """The moments are of the text before; withdrawn in mid-round, they are in nothing that is published."""
    assert make_trainer(node).do(node.job(1))
    other_text(node)
    home, worker = TrainerHome(node.root), make_trainer(node)
    steps = AtStep(monkeypatch, node, 2 if withdrawn else 10_000)
    if withdrawn:
        assert not worker.do(node.job(2)) and not node.folder(2).exists()
        assert worker.do(node.job(2))  # as `serve` asks for it again
    else:
        assert worker.do(node.job(2))
    assert steps.steps == (12 if withdrawn else 6)
    assert (home.holds_of(RUN, 2) == {node.result(2).data_manifest}) is withdrawn
    without = Node.make(tmp_path / "without")
    other_text(without)
    assert make_trainer(without).do(without.job(2))
    assert (node.fingerprints(2) == without.fingerprints(2)) is withdrawn


@pytest.mark.parametrize("withdrawn", [True, False])
def test_steps_that_were_taken_ahead_on_top_of_it_are_dropped(
    node: Node, tmp_path: Path, withdrawn: bool
) -> None:
    """With overlap they lie in the trainer's memory, parameters and all."""
    streaming = Streaming(fragments=1, overlap_steps=2)
    node.plan = node.plan.model_copy(update={"streaming": streaming})
    node.store.put(node.plan.to_bytes())
    assert make_trainer(node).do(node.job(1))
    after = node.merged(1, node.state)
    other_text(node)
    worker = make_trainer(node)
    assert worker.do(node.job(2, after))
    assert len(TrainerHome(node.root).holds_of(RUN, 2)) == 2
    if withdrawn:
        mark(node)
    assert worker.do(node.job(3, node.merged(2, after)))
    assert len(TrainerHome(node.root).holds_of(RUN, 3)) == (1 if withdrawn else 2)


def test_a_residual_that_withdrawn_text_has_used_up_is_not_used_twice(node: Node) -> None:
    """What the first round left over went into the second's update, which was merged; the third begins with
    none. Withdrawn in the third round, the first is the newest that may be gone on from."""
    few = TopK(keep=32, side=64, bits=2)
    codec = Codec(matrices=few, embeddings=few, norms=Fp4(), error_feedback=0.95)
    node.plan = node.plan.model_copy(update={"codec": codec})
    node.store.put(node.plan.to_bytes())
    assert make_trainer(node).do(node.job(1))
    other_text(node)
    assert make_trainer(node).do(node.job(2, merged_round=1))
    other_text(node, "third", old="other")
    home, source, layout = TrainerHome(node.root), BlobFolder(node.root / "blobs"), node.layout
    found = Residual.before(home, node.job(3, merged_round=2), layout, source, ISLAND_OF_ONE)
    assert found is not None and found.folder == node.folder(2)
    mark(node, "other")
    assert [number for number, _ in home.before(node.job(3))] == [1]
    assert Residual.before(home, node.job(3, merged_round=2), layout, source, ISLAND_OF_ONE) is None
    found = Residual.before(home, node.job(3, merged_round=1), layout, source, ISLAND_OF_ONE)
    assert found is not None and found.folder == node.folder(1)  # the second was merged nowhere


# -- tokens ------------------------------------------------------------------------------------------


def tokens(node: Node) -> list[Path]:
    return sorted((node.root / "cache").glob("tokens-*"))


def test_tokens_of_withdrawn_text_are_removed_once_nobody_trains(node: Node) -> None:
    assert make_trainer(node).do(node.job(1))
    (kept,) = tokens(node)
    shutil.copytree(kept, kept.with_name("tokens-half.tmp"))  # what a killed trainer left
    with files.Lock(TrainerHome(node.root).lock):  # as a trainer has it
        assert revoke(Home(node.root), "text", tell=False).removed is None
    assert kept in tokens(node) and Withdrawals(node.root).marks()
    removed = revoke(Home(node.root), "text", tell=False).removed
    assert removed is not None and removed.bytes > 10_000 and tokens(node) == []
    again = revoke(Home(node.root), "text", tell=False).removed
    assert again is not None and not again.folders


def test_a_kill_while_tokens_are_removed_is_finished_by_the_next(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is there by then, and no name that a trainer reads."""
    assert make_trainer(node).do(node.job(1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Removed, "erase", raise_interrupt)
        revoke(Home(node.root), "text", tell=False)
    assert Withdrawals(node.root).marks()
    assert [path.suffix for path in tokens(node)] == [".old"]
    revoke(Home(node.root), "text", tell=False)
    assert tokens(node) == []


def raise_interrupt(_: Removed) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("same", [True, False])
def test_tokens_of_a_dataset_that_was_changed_are_removed(node: Node, same: bool) -> None:
    """The trainer itself does it, once it has read the new text; tokens of other datasets stay."""
    assert make_trainer(node).do(node.job(1))
    (before,) = tokens(node)
    other_text(node, "text" if same else "other")
    assert make_trainer(node).do(node.job(2))
    assert (before in tokens(node)) is not same and len(tokens(node)) == (1 if same else 2)


@pytest.mark.parametrize("changed", [True, False])
def test_tokens_of_what_is_protected_by_now_are_removed(node: Node, changed: bool) -> None:
    """They hold the very documents; those that nothing was changed about stay."""
    assert make_trainer(node).do(node.job(1))
    (before,) = tokens(node)
    if changed:
        topic = '[[topics]]\nname = "songs"\nterms = {de = ["Document 7"]}\n'
        (node.root / "protected.toml").write_text(f'format = "tapestry.protected"\nversion = 1\n{topic}')
    assert make_trainer(node).do(node.job(2))
    (now,) = tokens(node)
    assert (now != before) is changed
    if changed:
        withheld = json.loads((now / "withheld.json").read_bytes())
        assert withheld["train"] == 1


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
