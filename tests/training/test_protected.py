"""What a community protects never gets into the tokens; what is wrong with the file stops the trainer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapestry.catalog.protected import Protected
from tapestry.errors import CorpusError, SettingsError
from tapestry.protocol.canonical import sha256
from tapestry.training import corpus as corpus_module
from tapestry.training.corpus import Corpus, Withheld, open_corpus
from tapestry.training.home import Status, TrainerHome
from tapestry.training.island import ISLAND_OF_ONE
from tapestry.training.rights import protected_of
from tapestry.training.settings import TrainerSettings
from tapestry.training.tokenizer import Tokenizer
from tapestry.training.trainer import Trainer
from tests.training.support import Node

HEAD = 'format = "tapestry.protected"\nversion = 1\n'
SONGS = f'{HEAD}[[topics]]\nname = "songs"\nterms = {{de = ["Regenlied"]}}\n'
SONG = "Das Regenlied der Alten."
BYTES = Tokenizer.byte_level()


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def opened(folder: Path, protected: str | None) -> Corpus:
    found = Protected.parse(protected.encode(), "p.toml") if protected is not None else None
    return open_corpus(folder, BYTES, folder.parent / "cache", protected=found)


def text_of(tokens: np.ndarray[Any, Any]) -> str:
    """Documents of byte tokens, each in brackets."""
    return "".join(f"[{part}]" for part in _decoded(tokens).split("\0")[:-1])


def _decoded(tokens: np.ndarray[Any, Any]) -> str:
    return bytes(0 if token == BYTES.end_id else token for token in tokens.tolist()).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "text"
    made.mkdir()
    (made / "train.jsonl").write_text(lines("one", SONG, "", "two"))
    (made / "valid.jsonl").write_text(lines(SONG, "three", SONG))
    return made


def test_a_protected_document_is_in_the_tokens_only_with_the_filter_off(folder: Path) -> None:
    off = opened(folder, None)
    assert text_of(off.train.tokens) == f"[one][{SONG}][two]"
    assert off.withheld is None
    on = opened(folder, SONGS)
    assert text_of(on.train.tokens) == "[one][two]"
    assert text_of(on.valid.tokens) == "[three]"
    assert on.valid.text_bytes is not None and len(on.valid.text_bytes) == len(on.valid.tokens)
    assert on.withheld == Withheld(hashlib.sha256(SONGS.encode()).hexdigest(), train=1, valid=2)
    assert (on.manifest, on.digest) == (off.manifest, off.digest), "it describes the files as they lie"
    assert opened(folder, SONGS).withheld == on.withheld, "out of the cache too"
    assert text_of(opened(folder, HEAD).train.tokens) == text_of(off.train.tokens)
    assert text_of(opened(folder, None).train.tokens) == text_of(off.train.tokens)


def test_documents_by_hash_and_files_by_name(folder: Path) -> None:
    (folder / "train-2.txt").write_text("A whole file.")
    digest = hashlib.sha256(b"two").hexdigest()
    file = f'{HEAD}[[holdings]]\nname = "h"\ndocuments = ["{digest}"]\nfiles = ["train-2.*"]\n'
    found = opened(folder, file)
    assert text_of(found.train.tokens) == f"[one][{SONG}]"
    assert found.withheld is not None and found.withheld.train == 2


def test_what_was_written_of_a_long_document_is_taken_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapestry.training.documents.CHUNK_CHARACTERS", 100)
    monkeypatch.setattr("tapestry.training.documents._READ_BYTES", 100)
    for split in ("train", "valid"):
        (folder / split).mkdir()
        (folder / split / "long.txt").write_text("A line of no song.\n" * 50 + SONG + "\nAnd on.\n" * 50)
    pieces: list[str] = []
    encode = Tokenizer.encode
    monkeypatch.setattr(Tokenizer, "encode", lambda self, text: pieces.append(text) or encode(self, text))
    found = opened(folder, SONGS)
    assert len(pieces) > 10, "pieces before the song were tokenized"
    assert text_of(found.train.tokens) == "[one][two]"
    assert text_of(found.valid.tokens) == "[three]"
    assert len(text_of(opened(folder, None).train.tokens)) > 1000


def test_a_split_that_is_withheld_as_a_whole_is_said_to_be(folder: Path) -> None:
    (folder / "valid.jsonl").write_text(lines(SONG, SONG))
    with pytest.raises(CorpusError, match="valid files") as caught:
        opened(folder, SONGS)
    assert caught.value.hint == "2 documents are withheld, the rest is empty"


def test_the_text_is_read_anew_where_the_comparison_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(folder, SONGS)
    monkeypatch.setattr(corpus_module, "MATCHING", "2 of another time")
    opened(folder, SONGS)
    assert len(list((folder.parent / "cache").glob("tokens-*"))) == 2


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.make(tmp_path / "home", steps=2)


def trainer(node: Node) -> Trainer:
    home = TrainerHome(node.root)
    home.make_folders()
    return Trainer(home, TrainerSettings.load(node.root), Status(home), ISLAND_OF_ONE)


def of_document(number: int) -> str:
    return f'{HEAD}[[topics]]\nname = "t"\nterms = {{de = ["Document {number}"]}}\n'


def manifest(node: Node, round: int) -> dict[str, Any]:
    """The data manifest that a round's result names."""
    digest = json.loads((node.folder(round) / "result.json").read_text())["data_manifest"]
    (path,) = (node.root / "cache" / "manifests").glob(f"*{digest}*")
    assert sha256(path.read_bytes()) == digest
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_change_holds_from_the_next_round_on_and_the_manifest_says_what_is_withheld(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    at_work, path = trainer(node), node.root / "protected.toml"
    told = []
    for number, file in ((1, None), (2, of_document(7)), (3, HEAD)):
        if file is not None:
            path.write_text(file)
        assert at_work.do(node.job(number))
        assert at_work.text.corpus is not None
        text = _decoded(at_work.text.corpus.train.tokens)
        told.append(("Document 7:" in text, "Document 8:" in text, manifest(node, number).get("protected")))
    digests = [hashlib.sha256(each.encode()).hexdigest() for each in (of_document(7), HEAD)]
    assert told == [
        (True, True, None),
        (False, True, {"sha256": digests[0], "withheld": {"train": 1, "valid": 0}}),
        (True, True, {"sha256": digests[1], "withheld": {"train": 0, "valid": 0}}),
    ]
    logged = capsys.readouterr().err
    assert "documents withheld" in logged and "Document 7" not in logged


@pytest.mark.parametrize("wrong", ["strength = 3", SONGS + "x = [", "\xff", "link", "gone", "emptied"])
def test_a_wrong_file_is_an_error_and_none_is_none(tmp_path: Path, wrong: str) -> None:
    path, seen = tmp_path / "protected.toml", tmp_path / "cache" / "protected"
    assert protected_of(tmp_path) is None
    if wrong == "link":
        path.symlink_to(tmp_path / "nowhere.toml")
    elif wrong in ("gone", "emptied"):
        seen.parent.mkdir()
        seen.touch()
        if wrong == "emptied":
            path.touch()
    else:
        path.write_bytes(wrong.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"protected\.toml") as caught:
        protected_of(tmp_path)
    assert caught.value.hint
    path.unlink(missing_ok=True)
    path.write_text(HEAD)
    found = protected_of(tmp_path)
    assert found is not None and found.topic(SONG) is None


def test_a_wrong_file_stops_the_trainer_before_it_reads(node: Node) -> None:
    path = node.root / "protected.toml"
    path.write_text("strength = 3")
    with pytest.raises(SettingsError, match=r"protected\.toml"):
        trainer(node).do(node.job(1))
    assert not node.folder(1).exists()
    assert not list((node.root / "cache").glob("tokens-*")), "nothing was read into the cache"
    path.write_text(of_document(7))
    assert trainer(node).do(node.job(1)), "the control: with a right file it trains"
    path.unlink()
    with pytest.raises(SettingsError, match="was there when this node last trained"):
        trainer(node).do(node.job(2))
