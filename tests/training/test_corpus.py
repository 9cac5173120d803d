from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.errors import CorpusError
from tapestry.protocol import canonical
from tapestry.training import corpus as corpus_module
from tapestry.training import documents as documents_module
from tapestry.training.corpus import find_files, open_corpus
from tapestry.training.documents import documents
from tapestry.training.tokenizer import Tokenizer

BYTES = Tokenizer.byte_level()


def put(folder: Path, **contents: bytes | str) -> Path:
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def opened(folder: Path) -> corpus_module.Corpus:
    return open_corpus(folder, BYTES, folder.parent / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "text"


def test_documents_are_closed_by_the_end_of_text(folder: Path) -> None:
    put(folder, train_jsonl=lines("ab", "", "c"), valid_txt="é\n")
    found = opened(folder)
    assert found.train.tokens.tolist() == [97, 98, 256, 99, 256]
    assert found.train.tokens.dtype == np.uint16
    assert found.valid.tokens.tolist() == [*"é\n".encode(), 256]
    assert found.valid.text_bytes is not None
    assert found.valid.text_bytes.tolist() == [1, 1, 1, 0]


def test_sub_folders_are_splits_and_other_files_are_ignored(folder: Path) -> None:
    put(
        folder, train__b_txt="b", train__deep__a_txt="a", train__x_md="no", valid__v_txt="v", LICENSE_txt="no"
    )
    assert [file.name for file in find_files(folder)] == ["train/b.txt", "train/deep/a.txt", "valid/v.txt"]
    assert bytes(opened(folder).train.tokens[[0, 2]].astype(np.uint8)) == b"ba"


def test_the_manifest_lists_files_with_bytes_and_hashes(folder: Path) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    found = opened(folder)
    value = canonical.decode(found.manifest)
    assert value["files"][0] == {
        "bytes": 5,
        "path": "train.txt",
        "sha256": canonical.sha256(b"hello"),
        "split": "train",
    }
    assert found.digest == canonical.sha256(found.manifest)


def test_text_is_tokenized_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    first = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "_tokenize", None)
        assert opened(folder).train.tokens.tolist() == first.train.tokens.tolist()
    put(folder, train_txt="jello")
    changed = opened(folder)
    assert changed.train.tokens[0] == ord("j")
    assert changed.digest != first.digest


def test_two_that_tokenize_at_once_do_not_meet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `demo --compare` does: text pooled and text alone, from one cache."""
    put(folder, train_txt="train " * 50, valid_txt="valid " * 50)
    real, inside, most = corpus_module._write_split, [], []

    def slow(*given: Any) -> int:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        try:
            return real(*given)
        finally:
            inside.pop()

    monkeypatch.setattr(corpus_module, "_write_split", slow)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(opened, [folder] * 3))
    assert len({each.digest for each in found}) == 1 and len(most) == 2 and max(most) == 1


def test_a_cache_that_was_cut_off_is_made_again(folder: Path) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    opened(folder)
    (place,) = (folder.parent / "cache").glob("tokens-*")
    place.rename(place.with_name(place.name + ".tmp"))
    assert opened(folder).train.tokens.tolist() == [*b"hello", 256]
    assert [path.name for path in place.parent.glob("[!.]*")] == [place.name]


def test_long_text_is_read_in_pieces_that_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "_READ_BYTES", 7)
    monkeypatch.setattr(documents_module, "CHUNK_CHARACTERS", 20)
    text = "Größe und Maß\nмир\n\n" * 9 + "x" * 50
    put(folder, train_txt=b"\xef\xbb\xbf" + text.encode(), valid_txt="v")
    ((*pieces,),) = (list(document) for document in documents(folder / "train.txt"))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert all(piece.endswith("\n") for piece in pieces[:3])
    assert bytes(opened(folder).train.tokens[:-1].astype(np.uint8)) == text.encode()


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({}, "has no train text"),
        ({"train_txt": "a"}, "has no valid text"),
        ({"train_md": "a", "valid_txt": "a"}, "has no train text.*1 other files are ignored"),
        ({"valid_txt": "a"}, "has no train text"),
        ({"train_txt": "", "valid_txt": "a"}, "train files in .* hold no text"),
        ({"train_txt": "a", "valid_jsonl": lines("", "")}, "valid files in .* hold no text"),
        ({"train_txt": b"a\nb\n\xff", "valid_txt": "a"}, r"train\.txt, line 3: not UTF-8"),
        ({"train_txt": b"a\nb\xe2\x82", "valid_txt": "a"}, r"train\.txt, line 2: not UTF-8"),
        ({"train_jsonl": lines("a").encode() + b"\xff\n", "valid_txt": "a"}, "line 2: not UTF-8"),
        ({"train_jsonl": lines("a") + "\n{\n", "valid_txt": "a"}, r"train\.jsonl, line 3: not JSON"),
        ({"train_jsonl": '{"words": "a"}', "valid_txt": "a"}, "line 1: no field `text`"),
        ({"train_jsonl": '{"text": 3}', "valid_txt": "a"}, "line 1: no field `text`"),
        ({"train_jsonl": '["text"]', "valid_txt": "a"}, "line 1: no field `text`"),
        ({"train_jsonl": '{"text": "\\ud800"}', "valid_txt": "a"}, "line 1: .*surrogate"),
        ({"train_jsonl": '{"text": }', "valid_txt": "a"}, "line 1: not JSON"),
        ({"train_jsonl": '{"text": "a"} x', "valid_txt": "a"}, "line 1: not JSON"),
        ({"train_jsonl": "[" * 100_000, "valid_txt": "a"}, "line 1: not JSON"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(
    folder: Path, contents: dict[str, bytes | str], said: str
) -> None:
    folder.mkdir()
    put(folder, **contents)
    with pytest.raises(CorpusError, match=said):
        opened(folder)
    assert not list((folder.parent / "cache").glob("tokens-????????????????????????????????"))


def test_a_name_that_is_no_text_is_refused_wherever_files_are_looked_for(folder: Path) -> None:
    put(folder, train_txt="a", valid_txt="b")
    (folder / os.fsdecode(b"train-\xff.txt")).write_text("c")
    with pytest.raises(CorpusError, match="is not UTF-8"):
        find_files(folder)


def test_a_missing_folder_and_a_file_are_no_corpus(folder: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        find_files(folder)
    folder.write_text("x")
    with pytest.raises(CorpusError, match="is not a folder"):
        find_files(folder)


def test_a_line_without_end_is_refused_before_it_fills_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "MAX_LINE_BYTES", 100)
    put(folder, train_jsonl=lines("x" * 200), valid_txt="v")
    with pytest.raises(CorpusError, match="longer than 100 bytes"):
        opened(folder)


def test_a_file_that_changes_while_it_is_read_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    real = corpus_module._write_split

    def meddle(*args: object) -> int:
        put(folder, train_txt="other")
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus_module, "_write_split", meddle)
    with pytest.raises(CorpusError, match="changed while it was read"):
        opened(folder)


def test_too_little_text_for_one_window(folder: Path) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    found = opened(folder)
    found.require(5)
    with pytest.raises(CorpusError, match="6 tokens, less than one window of 7"):
        found.require(6)


def test_a_large_vocabulary_takes_four_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, train_txt="hello", valid_txt="v")
    wide = Tokenizer.byte_level()
    wide.__dict__["size"] = 70_000
    assert open_corpus(folder, wide, folder.parent / "wide").train.tokens.dtype == np.uint32


def test_a_full_disk_leaves_no_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapestry.errors import DiskFull

    put(folder, train_txt="hello", valid_txt="v")

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_module, "_write_split", full)
    with pytest.raises(DiskFull):
        opened(folder)
    monkeypatch.undo()
    shutil.rmtree(folder.parent / "cache")
    assert opened(folder).train.tokens.size == 6
