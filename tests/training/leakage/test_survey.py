"""Which text stands for what was not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapestry.errors import InputError
from tapestry.training.corpus import open_corpus
from tapestry.training.leakage.survey import Asked, Survey
from tapestry.training.leakage.windows import Span
from tapestry.training.loaded import Loaded
from tests.training.support import Node


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    """400 windows of train text, 120 of valid text."""
    node = Node.make(tmp_path / "home")
    for split, windows in (("train", 400), ("valid", 120)):
        text = "".join(f"{number:07} " for number in range(windows * 32 // 8))
        (tmp_path / "home" / "corpus" / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    loaded = Loaded.read(node.store, node.model.digest)
    corpus = open_corpus(tmp_path / "home" / "corpus", loaded.tokenizer, tmp_path / "cache")
    return Survey(loaded, corpus, node.plan, "acme-1", Asked(windows=100, window_bytes=32))


def test_text_still_to_come_is_taken_before_valid_text(survey: Survey) -> None:
    found = survey.windows([Span(0, 150)], [], unseen=True)
    assert (found.others, len(found.members), len(found.non_members)) == ("train", 100, 100)
    inside = {tuple(row) for row in found.members.tolist()}
    assert not inside & {tuple(row) for row in found.non_members.tolist()}


def test_valid_text_is_taken_where_little_is_to_come_or_it_is_not_certain(survey: Survey) -> None:
    assert survey.windows([Span(350, 380)], [Span(0, 350)], unseen=True).others == "valid"
    assert survey.windows([Span(0, 150)], [], unseen=False).others == "valid"


def test_too_few_windows_are_named(survey: Survey) -> None:
    with pytest.raises(InputError, match="15 windows of 32 bytes were trained on"):
        survey.windows([Span(0, 15)], [], unseen=True)


def test_what_earlier_rounds_trained_on_is_no_text_still_to_come(survey: Survey) -> None:
    found = survey.windows([Span(200, 250)], [Span(0, 200)], unseen=True)
    order = survey._order
    seen = {tuple(row) for at in range(250) for row in order.batch(at, 1).tolist()}
    assert found.others == "train"
    assert not seen & {tuple(row) for row in found.non_members.tolist()}
