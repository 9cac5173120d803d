"""The demo's texts: the same every time, split without overlap, absent fields skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapestry.cli.demo import texts
from tapestry.errors import CorpusError, InputError


def test_the_same_interpreter_gives_the_same_bytes(tmp_path: Path) -> None:
    first = texts.from_standard_library(3, tmp_path / "a")
    second = texts.from_standard_library(3, tmp_path / "b")
    assert [m.name for m in first] == [m.name for m in second]
    for a, b in zip(first, second, strict=True):
        for name in ("train.jsonl", "valid.jsonl"):
            assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()


def test_members_have_enough_text_and_valid_is_apart(tmp_path: Path) -> None:
    for member in texts.from_standard_library(3, tmp_path):
        train, valid = (
            [json.loads(line) for line in (member.folder / name).read_text().splitlines()]
            for name in ("train.jsonl", "valid.jsonl")
        )
        assert sum(len(d["text"].encode()) for d in train) > texts.MIN_FIELD_BYTES * 0.9
        assert (
            sum(len(d["text"].encode()) for d in valid) > texts.MIN_FIELD_BYTES * texts.VALID_FRACTION * 0.9
        )
        assert not {d["source"] for d in train} & {d["source"] for d in valid}
        assert not any(d["source"].startswith("/") for d in train)


def test_an_absent_field_is_skipped(tmp_path: Path) -> None:
    present = texts.FIELDS[1]
    folder = tmp_path / present.parts.split()[0]
    folder.mkdir()
    (folder / "topics.py").write_text('topics = {"a": ' + repr("word " * 100_000) + "}\n")
    assert [field.name for field, _ in texts.fields(root=tmp_path)] == [present.name]
    with pytest.raises(InputError, match="text for 1 members, not for 2"):
        texts.choose(2, root=tmp_path)


def test_no_standard_library_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="text for 0 members"):
        texts.choose(1, root=tmp_path)


def test_code_that_does_not_parse_has_no_prose() -> None:
    assert texts._prose("def f(:\n") == ""
    assert texts._prose('"""' + "word " * 40 + '"""\n').startswith("word word")


def _corpus(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("some text\n")


def test_one_member_per_sub_folder_in_name_order(tmp_path: Path) -> None:
    for name in ("fr", "de", "uk"):
        _corpus(tmp_path / name, "train.txt", "valid.txt")
    (tmp_path / "notes").mkdir()
    assert [m.name for m in texts.from_folder(None, tmp_path)] == ["de", "fr", "uk"]
    assert [m.name for m in texts.from_folder(2, tmp_path)] == ["de", "fr"]
    with pytest.raises(InputError, match="has 3 sub-folders"):
        texts.from_folder(4, tmp_path)


def test_a_sub_folder_without_valid(tmp_path: Path) -> None:
    _corpus(tmp_path / "de", "train.txt")
    with pytest.raises(CorpusError, match="no valid"):
        texts.from_folder(None, tmp_path)


def test_a_sub_folder_that_is_no_name(tmp_path: Path) -> None:
    _corpus(tmp_path / "Deutsch!", "train.txt", "valid.txt")
    with pytest.raises(InputError, match="cannot be a member's name"):
        texts.from_folder(None, tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not a folder"):
        texts.from_folder(None, tmp_path / "none")
