"""What was taken of one text is not gone on with when the node has another: not by a restart in the middle of
a round, and not where the text was withdrawn while the node was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.bundle.data import DataManifest
from tapestry.training import trainer as trainers
from tapestry.training.home import TrainerHome
from tests.cards import give_card

from .support import RUN, Node
from .test_withdrawal import make_trainer, mark

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home", checkpoint_s=1e-6)


class Steps:
    """Counts them; the process dies at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
        self.taken, self._dies_at = 0, dies_at
        monkeypatch.setattr(trainers.failpoints, "reach", self.reach)

    def reach(self, name: str) -> None:
        self.taken += name == "trainer.step"
        if name == "trainer.step" and self.taken == self._dies_at:
            raise KeyboardInterrupt


def other_text(node: Node) -> None:
    text = node.root / "corpus" / "train.jsonl"
    text.write_text(text.read_text().replace("voll", "leer"))
    (node.root / "cards" / "text.json").unlink()
    give_card(node.root, node.root / "corpus", name="other")


@pytest.mark.parametrize("case", ["withdrawn", "other text", "protected", "same text"])
def test_a_checkpoint_is_of_one_text(case: str, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        Steps(dying, 4)
        make_trainer(node).do(node.job(1))
    assert TrainerHome(node.root).partials(RUN, 1)
    if case == "withdrawn":
        mark(node)
    if case == "protected":
        topic = '[[topics]]\nname = "seventh"\nwhy = "a test"\n[topics.terms]\nen = ["Document 7"]\n'
        (node.root / "protected.toml").write_text(f'format = "tapestry.protected"\nversion = 1\n\n{topic}')
    elif case != "same text":
        other_text(node)
    again = Steps(monkeypatch, 0)
    assert make_trainer(node).do(node.job(1))
    assert again.taken == (3 if case == "same text" else 6)
    told = (node.root / "cache" / "manifests" / f"{node.result(1).data_manifest}.json").read_bytes()
    protected = DataManifest.from_bytes(told).protected  # as bundles read it
    assert (protected is not None) is (case == "protected")


@pytest.mark.parametrize("withdrawn", ["text", "nothing"])
def test_what_was_gone_on_from_is_remembered(withdrawn: str, node: Node) -> None:
    """The node changed its text before the old one was withdrawn: the new rounds have moments of it."""
    home = TrainerHome(node.root)
    assert make_trainer(node).do(node.job(1))
    other_text(node)
    assert make_trainer(node).do(node.job(2))
    assert [number for number, _ in home.before(node.job(3))] == [2, 1]
    assert node.result(1).data_manifest in home.holds_of(RUN, 2)
    mark(node, withdrawn)
    assert [number for number, _ in home.before(node.job(3))] == ([] if withdrawn == "text" else [2, 1])
