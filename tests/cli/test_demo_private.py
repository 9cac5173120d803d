"""Text that a demo keeps from its run, for a model of one member's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tapestry.cli.demo import private
from tapestry.cli.demo.places import Places
from tapestry.cli.demo.result import Result
from tapestry.cli.demo.settings import DemoSettings, choose, save
from tapestry.cli.demo.texts import MemberText
from tapestry.errors import CorpusError, InputError

WORDS = "Text that somebody wrote about the number {}, and not at all a short one.\n\n"


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def member(folder: Path, *, documents: int) -> MemberText:
    folder.mkdir()
    (folder / "train.txt").write_text("".join(WORDS.format(n) for n in range(documents)))
    (folder / "valid.txt").write_text(WORDS.format("of the valid text") * 3)
    return MemberText(name="fr", about="", folder=folder)


def test_what_is_kept_never_goes_to_the_run(tmp_path: Path) -> None:
    one = member(tmp_path / "fr", documents=2000)
    places = Places(tmp_path / "out")
    part = private.part(one, places)
    run, kept = (texts(folder / "train.jsonl") for folder in (part.folder, private.kept(places)))
    both = texts(private.everything(places) / "train.jsonl")
    assert not set(run) & set(kept)
    assert sorted(run + kept) == sorted(both)
    assert "".join(both).split() == (one.folder / "train.txt").read_text().split()
    assert 0.2 < len(kept) / len(both) < 0.8
    for folder in (part.folder, private.kept(places), private.everything(places)):
        assert texts(folder / "valid.jsonl") == texts(part.folder / "valid.jsonl")
    again = private.part(one, Places(tmp_path / "again"))
    assert (again.folder / "train.jsonl").read_bytes() == (part.folder / "train.jsonl").read_bytes()


def test_too_little_text_is_said(tmp_path: Path) -> None:
    places = Places(tmp_path / "out")
    one = member(tmp_path / "fr", documents=3)
    for _ in range(2):  # what a first call left is not taken for done
        with pytest.raises(CorpusError, match="too little text") as caught:
            private.part(one, places)
        assert "--build" in (caught.value.hint or "")


def test_a_demo_is_laid_out_with_it_or_without(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "nodes": None,
        "rounds": None,
        "steps": None,
        "seed": None,
        "corpora": None,
        "compare": False,
    }
    assert choose(out=tmp_path / "new", build=True, **asked).settings.build
    settings = DemoSettings(nodes=2, rounds=2, steps=2, seed=0, corpora=None)
    for build in (False, True):
        out = tmp_path / str(build)
        out.mkdir()
        save(settings.model_copy(update={"build": build}), out)
    assert choose(out=tmp_path / "True", **asked).settings.build
    with pytest.raises(InputError, match="without --build"):
        choose(out=tmp_path / "False", build=True, **asked)


def test_json_holds_it_only_where_there_is_one() -> None:
    nothing: dict[str, Any] = dict.fromkeys(("run", "base", "export", "plot", "sample"), "")
    plain = Result(**nothing, rounds=1, parameters=1, seconds=0.0, compared=False)
    assert "sovereign" not in plain.to_json()
    plain.sovereign = {"member": "fr", "export": "model"}
    assert plain.to_json()["sovereign"] == {"member": "fr", "export": "model"}
