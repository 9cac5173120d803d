"""Nothing is trained without a card that holds and permits it; a refusal is one error, and is in the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapestry.bundle.data import DataManifest
from tapestry.errors import CardError, RightsRefused, SettingsError, TapestryError
from tapestry.node.home import Home
from tapestry.node.revoke import revoke
from tapestry.protocol.canonical import sha256
from tapestry.training import cards, rights
from tapestry.training.holding import hold
from tapestry.training.home import Status, TrainerHome
from tapestry.training.island import ISLAND_OF_ONE
from tapestry.training.settings import TrainerSettings
from tapestry.training.shelf import Shelf
from tapestry.training.trainer import Trainer
from tests.cards import give_card
from tests.training.support import Node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home", steps=2)


def trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    return Trainer(home, TrainerSettings.load(node.root), Status(home), ISLAND_OF_ONE)


def corpus(node: Node) -> Path:
    return node.root / "corpus"


def described(**fields: Any) -> Callable[[Node], None]:
    return lambda node: void(give_card(node.root, corpus(node), replace=True, **fields))


def void(value: object) -> None:
    pass


def no_card(node: Node) -> None:
    Shelf.of_node(node.root).path("text").unlink()


def changed(node: Node) -> None:
    path = corpus(node) / "valid.jsonl"
    path.write_text(path.read_text().replace("Document", "document", 1))


def new_file(node: Node) -> None:
    (corpus(node) / "train-2.txt").write_text("Another text that nobody has a card for.")


def fewer_files(node: Node) -> None:
    (corpus(node) / "train-2.txt").write_text("Soon gone.")
    give_card(node.root, corpus(node), replace=True)
    (corpus(node) / "train-2.txt").unlink()


def other_root(node: Node) -> None:
    edit(node, lambda card: card["tapestry:content"].update(root="0" * 64))


def edit(node: Node, change: Callable[[dict[str, Any]], object]) -> None:
    path = Shelf.of_node(node.root).path("text")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def elsewhere(node: Node) -> None:
    path = node.root / "node.toml"
    path.write_text(path.read_text().replace('residency = "CH"', 'residency = "DE"'))


def nowhere(node: Node) -> None:
    path = node.root / "node.toml"
    path.write_text(path.read_text().replace('residency = "CH"\n', ""))


def own_rule(node: Node) -> None:
    (node.root / "rights.cedar").write_text(
        '@id("songs") @needed("ask the elders") forbid (principal, action, resource)'
        ' when { resource.domain == "general" };'
    )


def own_permit(node: Node) -> None:
    (node.root / "rights.cedar").write_text('@id("all") permit (principal, action, resource);')


REFUSED: dict[str, tuple[Callable[[Node], object], type[TapestryError], str]] = {
    "no card": (no_card, CardError, "has no card, and nothing is trained without one"),
    "two cards": (described(name="other"), CardError, "has 2 cards: other, text"),
    "a changed file": (changed, CardError, r"is not what card text describes: valid.jsonl \(changed\)"),
    "a new file": (new_file, CardError, r"train-2.txt \(new\)"),
    "a file less": (fewer_files, CardError, r"train-2.txt \(missing\)"),
    "another root": (other_root, CardError, "another root"),
    "a card that is none": (lambda node: edit(node, lambda card: card.pop("license")), CardError, "licence"),
    "an expired consent": (
        described(consent_basis="letter", consent_until="2026-11-01"), RightsRefused, "rule consent-expired",
    ),
    "no longer kept": (described(retention="2020-01-01"), RightsRefused, "rule retention"),
    "no consent": (described(category="sovereign"), RightsRefused, "rule consent-missing"),
    "private": (described(category="private"), RightsRefused, "rule category"),
    "not for commerce": (described(licence="CC-BY-NC-4.0"), RightsRefused, "rule licence"),
    "not for this stage": (described(stages=["sft", "evaluation"]), RightsRefused, "rule stage"),
    "a node in another country": (elsewhere, RightsRefused, "rule residency"),
    "a node that is nowhere": (nowhere, RightsRefused, "rule residency"),
    "the owner's own rule": (own_rule, RightsRefused, "rule songs"),
    "the owner cannot permit": (own_permit, SettingsError, "permits"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, error, said = REFUSED[name]
    spoil(node)
    with pytest.raises(error, match=said) as caught:
        trainer(node).do(node.job(1))
    assert caught.value.hint
    assert not any(node.out.iterdir()), "nothing was trained"
    assert not list((node.root / "cache").glob("tokens-*")), "nothing was read into the cache"
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["reason"] for line in logged if line["event"] == "dataset refused"] == [caught.value.message]


@pytest.mark.parametrize("name", REFUSED)
def test_with_the_defence_off_it_would_be_trained(
    name: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: what is refused above is text that would train well."""
    REFUSED[name][0](node)
    given = hold(corpus(node))
    card = give_card(node.root / "elsewhere", corpus(node))
    assert card.card.content == given.content
    monkeypatch.setattr(rights.Rights, "admit", lambda self, stage, day: rights.Admitted((card,), stage))
    assert trainer(node).do(node.job(1, evaluate=False))
    assert list(node.out.iterdir())


# -- several cards ---------------------------------------------------------------------------------


def two_cards(node: Node, **described: Any) -> None:
    """`text` of what was there, and `letters` of files that come to it."""
    folder = corpus(node)
    (folder / "train").mkdir()
    (folder / "train" / "letters.txt").write_text("Lieber Freund, der Regen fällt seit Tagen. " * 40)
    (folder / "valid-letters.txt").write_text("Es grüßt dich dein Bruder.")
    fields = {
        "name": "letters", "description": "", "owner": "acme", "languages": ["de"], "licence": "CC-BY-4.0",
        "made": "2026-11-22", "residency": ["CH"], "category": "open", "stages": ["base"],
    }  # fmt: skip
    made = hold(folder, only=lambda path: "letters" in path)
    Shelf.of_node(node.root).put(made.values(folder, **fields | described))


def test_each_card_counts_its_own_files(node: Node) -> None:
    two_cards(node)
    trainer(node).do(node.job(1))
    path = node.root / "cache" / "manifests" / f"{node.result(1).data_manifest}.json"
    manifest = DataManifest.from_bytes(path.read_bytes())
    assert [each.name for each in manifest.cards] == ["letters", "text"]
    for each in manifest.cards:
        card = Shelf.of_node(node.root).read(each.name)
        assert (each.card, each.root, each.documents) == (
            card.digest, card.card.content.root, card.card.content.documents,
        )  # fmt: skip
        assert each.tokens.train + each.tokens.valid == card.card.content.tokens, "its tokens are bytes"
        assert (node.root / "cache" / "used-cards" / f"{card.digest}.json").is_file()
    assert [file.path for file in manifest.files] == [
        "train.jsonl", "train/letters.txt", "valid-letters.txt", "valid.jsonl",
    ]  # fmt: skip


def moved(node: Node) -> None:
    corpus(node).rename(node.root / "elsewhere")
    toml = node.root / "node.toml"
    toml.write_text(toml.read_text().replace('corpus = "corpus"', 'corpus = "elsewhere"'))


def one_gone(node: Node) -> None:
    for path in (corpus(node) / "train" / "letters.txt", corpus(node) / "valid-letters.txt"):
        path.unlink()


OF_TWO: dict[str, tuple[Callable[[Node], object], type[TapestryError] | None, str]] = {
    "moved": (moved, None, ""),
    "one of them gone": (one_gone, None, ""),
    "one changed": (
        lambda node: (corpus(node) / "train" / "letters.txt").write_text("Anderes."),
        CardError, r"not what cards letters, text describe: train/letters.txt \(changed\)",
    ),
    "a file of nobody": (new_file, CardError, r"train-2.txt \(new\)"),
    "a file of both": (
        lambda node: give_card(node.root, corpus(node), replace=True), CardError, "cards: letters, text",
    ),
    "one forbidden": (
        lambda node: edit_card(node, "letters", licence="CC-BY-NC-4.0"),
        RightsRefused, "dataset letters may not enter stage base: rule licence",
    ),
}  # fmt: skip


def edit_card(node: Node, name: str, **described: Any) -> None:
    shelf = Shelf.of_node(node.root)
    values = shelf.read(name).card.model_dump(mode="json") | described
    shelf.put(values, replace=True)


@pytest.mark.parametrize("name", OF_TWO)
def test_what_holds_of_one_card_holds_of_each(name: str, node: Node) -> None:
    spoil, error, said = OF_TWO[name]
    two_cards(node)
    spoil(node)
    if error is None:
        trainer(node).do(node.job(1))
        assert node.result(1)
        return
    with pytest.raises(error, match=said) as caught:
        trainer(node).do(node.job(1))
    assert caught.value.hint and not any(node.out.iterdir())


def test_one_of_two_is_withdrawn(node: Node) -> None:
    """All stops; once its files are elsewhere, the other goes on under the card it has."""
    two_cards(node)
    assert trainer(node).do(node.job(1))
    assert revoke(Home(node.root), "letters", tell=False).kept == ("test-run.1",)
    with pytest.raises(RightsRefused, match=r"dataset letters .* rule withdrawn"):
        trainer(node).do(node.job(2))
    one_gone(node)
    assert trainer(node).do(node.job(2))
    path = node.root / "cache" / "manifests" / f"{node.result(2).data_manifest}.json"
    assert [each.name for each in DataManifest.from_bytes(path.read_bytes()).cards] == ["text"]


def test_the_manifest_binds_the_card(node: Node) -> None:
    trainer(node).do(node.job(1))
    result = node.result(1)
    data = (node.root / "cache" / "manifests" / f"{result.data_manifest}.json").read_bytes()
    assert sha256(data) == result.data_manifest
    manifest = json.loads(data)
    card = Shelf.of_node(node.root).read("text")
    bound = manifest["cards"][0]
    assert (bound["card"], bound["root"]) == (card.digest, card.card.content.root)
    assert (bound["documents"], bound["bytes"]) == (46, card.card.content.bytes)
    assert bound["tokens"]["train"] + bound["tokens"]["valid"] == card.card.content.tokens, (
        "its tokens are bytes"
    )
    assert [file["path"] for file in manifest["files"]] == ["train.jsonl", "valid.jsonl"]


def test_another_card_for_the_same_text_is_another_manifest(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    before = node.result(1).data_manifest
    give_card(node.root, corpus(node), replace=True, licence="MIT")
    one.do(node.job(2, state=node.state))
    assert node.result(2).data_manifest != before


def test_rights_are_asked_for_each_round(node: Node) -> None:
    one = trainer(node)
    one.do(node.job(1))
    give_card(node.root, corpus(node), replace=True, category="private")
    with pytest.raises(RightsRefused):
        one.do(node.job(2, state=node.state))
    assert not node.folder(2).exists()


def test_another_text_under_a_running_trainer_is_no_text_of_the_card(node: Node) -> None:
    """Else the tokens of one text would be trained, and the card of another one named."""
    one = trainer(node)
    one.do(node.job(1))
    changed(node)
    give_card(node.root, corpus(node), replace=True)
    with pytest.raises(CardError, match="had read what was there before"):
        one.do(node.job(2, state=node.state))
    assert not node.folder(2).exists()
    assert trainer(node).do(node.job(2, state=node.state)), "started again it goes on"


def test_a_restart_reads_no_text_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def counted(folder: Path, **more: Any) -> Any:
        calls.append(folder)
        return hold(folder, **more)

    monkeypatch.setattr(cards, "hold", counted)
    for _ in range(3):
        trainer(node).text.rights.admit("base", "2026-11-22")
    assert len(calls) == 1
    os.utime(corpus(node) / "train.jsonl")
    trainer(node).text.rights.admit("base", "2026-11-22")
    assert len(calls) == 2, "a file that was touched is read again"


def test_a_change_that_keeps_size_and_time_is_seen(node: Node) -> None:
    trainer(node).text.rights.admit("base", "2026-11-22")
    path = corpus(node) / "valid.jsonl"
    before, info = path.read_bytes(), path.stat()
    path.write_bytes(before.replace(b"Document", b"document", 1))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(CardError, match="changed"):
        trainer(node).text.rights.admit("base", "2026-11-22")


def test_a_folder_that_was_moved_keeps_its_card(node: Node) -> None:
    moved = node.root / "moved"
    corpus(node).rename(moved)
    path = node.root / "node.toml"
    path.write_text(path.read_text().replace('corpus = "corpus"', 'corpus = "moved"'))
    assert trainer(node).text.rights.admit("base", "2026-11-22").cards[0].card.name == "text"
    (moved / "valid.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(CardError, match="has no card"):
        trainer(node).text.rights.admit("base", "2026-11-22")


def test_the_trainer_ends_with_one_typed_error(node: Node) -> None:
    """As its supervisor sees it, which stops the node with it: exit code, last line of the log, status."""
    give_card(node.root, corpus(node), replace=True, licence="CC-BY-NC-4.0")
    node.give(node.job(1))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tapestry.training", "--home", str(node.root)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == RightsRefused.exit_code
    said = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in said[:-1]] == ["holding the card against the text", "dataset refused"]
    error = said[-1]["error"]
    assert (error["code"], "rule licence" in error["message"], bool(error["hint"])) == ("rights", True, True)
    status = json.loads((node.root / "status" / "trainer.json").read_text())
    assert (status["phase"], status["error"]["code"]) == ("failed", "rights")
    assert not any(node.out.iterdir())


def test_the_plan_says_which_stage_it_is(node: Node) -> None:
    """Of two runs at one node each needs its own permission, and names it in what it was trained on."""
    give_card(node.root, corpus(node), replace=True, stages=["contributed-cpt"])
    with pytest.raises(RightsRefused, match="may not enter stage base: rule stage"):
        trainer(node).do(node.job(1))
    plan = node.plan.model_copy(update={"stage": "contributed-cpt"})
    node.store.put(plan.to_bytes())
    assert trainer(node).do(node.job(1, plan=plan))
    assert stage_of(node) == "contributed-cpt"
    give_card(node.root, corpus(node), replace=True, stages=["contributed-cpt", "base"])
    worker = trainer(node)
    for job, stage in ((node.job(1), "base"), (node.job(1, plan=plan), "contributed-cpt")):
        assert worker.do(job)
        assert stage_of(node) == stage


def stage_of(node: Node) -> str:
    manifest = node.root / "cache" / "manifests" / f"{node.result(1).data_manifest}.json"
    return str(json.loads(manifest.read_bytes())["cards"][0]["stage"])
