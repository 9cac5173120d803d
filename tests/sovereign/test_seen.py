"""Held-out documents that a build was trained on are found, and the report says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tapestry.catalog.withdrawal import Withdrawn
from tapestry.cli import evaluating
from tapestry.sovereign.evaluation import given, seen, texts
from tapestry.sovereign.evaluation.page import page
from tapestry.sovereign.evaluation.report import EvaluationReport
from tapestry.sovereign.evaluation.work import evaluate
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Dataset
from tapestry.training.shelf import Shelf
from tapestry.training.withdrawals import Withdrawals
from tests.sovereign import made, support
from tests.sovereign.evaluated import jsonl


@pytest.fixture
def build(tmp_path: Path) -> BuildHome:
    """Finished, as far as its files tell: trained on text and on pairs."""
    home = support.make_all(tmp_path, support.HEAD + support.CPT + support.DPO)
    shutil.copytree(tmp_path / "base", home.model)
    cards = [Shelf(tmp_path / "cards").read(name).card for name in ("texts", "pairs")]
    read = tuple(
        Dataset(name=card.name, card="5" * 64, root=card.content.root, documents=1, tokens=1)
        for card in cards
    )
    stages = (made.STAGE.model_copy(update={"datasets": read}),)
    return made.finished(home.root, tmp_path / "base", owner="domowina", name="hsb-1", stages=stages)


def held_out(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir()
    return jsonl(folder / "valid.jsonl", rows).parent


def job(build: BuildHome, root: Path, **more: object) -> evaluating.Job:
    fields = {
        "models": {"model": str(build.model)}, "build": str(build.root), "node": None, "texts": {},
        "trained": None, "tasks": (), "task_names": (), "pairs": None, "instructions": None, "survey": None,
        "constitution": None, "gates": None, "out": str(root / "out"), "max_bytes": 5000, "answer_tokens": 8,
        "limit": None, "resamples": 100, "seed": 0, "threads": 1, "device": "cpu",
    }  # fmt: skip
    return evaluating.Job.model_validate(fields | more)


def test_the_report_marks_what_the_build_was_trained_on(build: BuildHome, tmp_path: Path) -> None:
    new = {"text": "Nowy tekst, kiž nichtó njeje čitał."}
    mixed = held_out(tmp_path / "mixed", [new, *support.texts()[5:7]])
    clean = held_out(tmp_path / "clean", [new, *support.texts()[:2]])  # of the dataset's own valid split
    pairs = [
        {"prompt": "Nowe?", "chosen": "Haj.", "rejected": "Ně."},
        {**support.pairs()[4], "language": "hsb"},
    ]
    asked = job(
        build, tmp_path, texts={"hsb": str(mixed), "dsb": str(clean)},
        pairs=str(jsonl(tmp_path / "p.jsonl", pairs)),
    )  # fmt: skip
    report = evaluate(evaluating._asked(asked))
    assert [(each.kind, each.name, each.trained_on, each.documents) for each in report.overlaps] == [
        ("text", "hsb", 2, 3), ("text", "dsb", 0, 3), ("pairs", "p.jsonl", 1, 2),
    ]  # fmt: skip
    said = [each for each in report.notes if "was trained on" in each]
    assert len(said) == 2
    assert said[0].startswith("held-out text of hsb: the build was trained on 2 of these 3 documents")
    html = page(report).decode()
    assert "these figures are too good" in html and "2 of 3" in html and "0 of 3" not in html
    assert EvaluationReport.from_bytes(report.to_bytes()) == report
    unasked = evaluate(evaluating._asked(asked.model_copy(update={"build": None, "pairs": None})))
    assert unasked.overlaps == () and not any("trained on" in each for each in unasked.notes)
    assert b"overlaps" not in unasked.to_bytes() and b"too good" not in page(unasked)


def test_text_is_hashed_whole_also_where_it_is_cut(build: BuildHome, tmp_path: Path) -> None:
    folder = held_out(tmp_path / "cut", support.texts()[5:6])
    read = texts.read("hsb", texts.files_of(folder), 9, None)
    assert len(read.documents[0].encode()) <= 9
    found = list(seen.overlaps(seen.of_build(build.root), (read,), {}))
    assert [each.trained_on for each in found] == [1]


def test_training_text_that_is_named_counts_too(build: BuildHome, tmp_path: Path) -> None:
    folder = support.write_lines(tmp_path / "more", [{"text": f"{n} abc " * 60} for n in range(6)])
    first = (folder / "train.jsonl").read_text().splitlines()[0]
    held = held_out(tmp_path / "held", [json.loads(first)])
    asked = job(build, tmp_path, texts={"hsb": str(held)}, trained=str(folder))
    training = evaluating._asked(asked.model_copy(update={"build": None})).training
    read = texts.read("hsb", texts.files_of(held), 5000, None)
    assert [each.trained_on for each in seen.overlaps(training, (read,), {})] == [1]


def test_what_could_not_be_looked_at_is_said(build: BuildHome, tmp_path: Path) -> None:
    whole = seen.of_build(build.root)
    assert whole.missing == () and len(whole.files) == 2
    assert len(list(seen.overlaps(whole, (), {"p": given.pairs(tmp_path / "pairs" / "train.jsonl")}))) == 1
    support.write_lines(tmp_path / "texts", support.texts(20))
    support.give_card(tmp_path / "cards", tmp_path / "texts", "texts", "private-cpt")
    shutil.rmtree(tmp_path / "pairs")
    found = seen.of_build(build.root)
    assert found.files == () and len(found.missing) == 2
    assert found.missing[0] == "dataset texts of stage 1: it was changed since"
    assert all(each.startswith("not looked whether it was trained on") for each in seen.notes(found, ()))
    build.recipe.write_text("nonsense")
    assert seen.of_build(build.root).missing[0].startswith("the training text: ")


def test_text_that_was_withdrawn_is_not_read_any_more(build: BuildHome, tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    (node / "node.toml").write_text(
        f'[node]\nname = "n"\nmember = "domowina"\n[training]\nresidency = "{support.HERE}"\n'
    )
    shutil.copytree(tmp_path / "cards", node / "cards")
    text = build.recipe.read_text().replace('cards = "../cards"\nresidency = "DE"', 'node = "../node"')
    build.recipe.write_text(text)
    assert seen.of_build(build.root).missing == ()
    Withdrawals(node).put(Withdrawn(dataset="texts", at="2026-11-22T00:00:00.000Z"))
    found = seen.of_build(build.root)
    assert found.missing == ("dataset texts of stage 1: it was withdrawn",)
    assert [file.path.parent.name for file in found.files] == ["pairs"]
