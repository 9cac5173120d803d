"""The benchmark of what a member gains, on made-up text: who has which text, who chooses what."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gain import __main__ as program
from benchmarks.gain.sizes import SIZES, cut
from benchmarks.gain.study import Study, _Kept
from benchmarks.parity import text


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return text.make_up(tmp_path_factory.mktemp("gain"), "greek,latin", 2)


def study(out: Path, corpora: dict[str, Path], **other: object) -> Study:
    one = {"length": (1.0,), "rate": (4e-3,)}
    axes = {"sovereign": {"length": (1.0,), "rate": (1e-3, 4e-3)}, "whole": one, "alone": one}
    size = dataclasses.replace(SIZES["tiny"], axes=axes, **other)
    return Study(size=size, name="tiny", texts=corpora, poor=("latin",), out=out)


@pytest.mark.parametrize("every", [2, 4])
def test_no_document_is_for_two_things(corpora: dict[str, Path], tmp_path: Path, every: int) -> None:
    parts = cut(corpora["greek"], tmp_path / "cut", 20_000, every)
    read = {
        (name, split): [
            json.loads(line)["text"] for line in (folder / f"{split}.jsonl").read_text().splitlines()
        ]
        for name, folder in parts.items()
        for split in ("train", "valid")
    }
    contributed, private = read["contributed", "train"], read["private", "train"]
    assert not set(contributed) & set(private)
    assert sorted(contributed + private) == sorted(read["all", "train"])
    assert len(private) == pytest.approx((every - 1) * len(contributed), abs=every)
    assert not set(read["all", "valid"]) & set(read["test", "valid"])
    assert not set(read["test", "valid"]) & set(read["all", "train"])


def test_a_member_with_little_text_takes_few_steps_of_a_round(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    train = _Kept._train

    def counted(self: _Kept, optimizer: Any, tasks: Any, start: int, end: int) -> None:
        steps.append(end - start)
        train(self, optimizer, tasks, start, end)

    monkeypatch.setattr(_Kept, "_train", counted)
    assert study(tmp_path, corpora).base(0) is not None
    assert steps == [10, 1, 10, 1], "two rounds of two members"


def test_members_who_share_a_language_share_no_document(corpora: dict[str, Path], tmp_path: Path) -> None:
    one, other = (
        {line for part in cut(corpora["greek"], tmp_path / str(n), 9_000, 2, number=n, of=2).values()
         for split in ("train", "valid") for line in (part / f"{split}.jsonl").read_text().splitlines()}
        for n in range(2)
    )  # fmt: skip
    assert one
    assert not one & other
    size = dataclasses.replace(SIZES["tiny"], text_bytes=9_000)
    made = Study(size=size, name="tiny", texts=corpora, poor=("latin-2",), out=tmp_path, sharing=2)
    assert sorted(made.corpora) == ["greek-1", "greek-2", "latin-1", "latin-2"]
    lengths = {name: len(parts["all"].train.tokens) for name, parts in made.corpora.items()}
    assert lengths["latin-2"] < lengths["latin-1"] / 4


def test_it_tunes_trains_and_reports_and_does_nothing_twice(corpora: dict[str, Path], tmp_path: Path) -> None:
    made = study(tmp_path, corpora)
    assert program.conduct(made, 2)
    records = made.book.records
    assert len(records) == 2 + 2 * (2 + 1 + 1) + 2 * (1 + 1 + 1), (
        "bases, seed 0 tuned, seed 1 with what was chosen"
    )
    best = made.tuned("sovereign", "greek")
    scores = {
        each["knobs"]["rate"]: each["selection"]["greek"]
        for each in records
        if each["method"] == "sovereign" and each["members"] == ["greek"] and each["seed"] == 0
    }
    assert best is not None
    assert best["rate"] == min(scores, key=lambda rate: scores[rate])
    said = program.report(made, 2).text()
    assert "latin (a tenth)" in said
    assert "Mean gain of all members" in said
    assert len(study(tmp_path, corpora).book.records) == len(records)
    again = study(tmp_path, corpora)
    assert program.conduct(again, 2)
    assert len(again.book.records) == len(records)


def test_out_of_time_it_says_so(corpora: dict[str, Path], tmp_path: Path) -> None:
    made = study(tmp_path, corpora)
    made.until = 0.0
    assert not program.conduct(made, 1)
    assert made.book.records == []
