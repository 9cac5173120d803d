"""What an owner tells of a derivative, and how it is listed, drawn, signed and carried over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.core import operator
from tapestry.sovereign.lineage import Lineage
from tests.cli.conftest import Call
from tests.core.support import CoreUnderTest
from tests.sovereign import made


def answer(call: Call, *words: object) -> Any:
    code, out, err = call(*map(str, words), "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished build of acme on an old base, and a new base."""
    monkeypatch.chdir(tmp_path)
    old = made.base(tmp_path / "old")
    made.changed(old, tmp_path / "new", made.noise(5))
    made.changed(old, tmp_path / "hsb" / "model", made.noise(6))
    made.finished(tmp_path / "hsb", old, owner="acme", name="hsb")
    return tmp_path


@pytest.fixture
def joined(here: Path, call: Call, core: CoreUnderTest) -> Iterator[CoreUnderTest]:
    core.start()
    assert call("member", "init", "acme", "--name", "acme")[0] == 0
    (here / "text").mkdir()
    for name in ("train.txt", "valid.txt"):
        (here / "text" / name).write_text("text of a canary that stays here\n" * 20)
    words = ("--member", "acme", "--name", "acme-1", "--corpus", "text", "--residency", "CH")
    assert call("node", "init", "node", *words)[0] == 0
    token = operator.invite(core.root, "acme")
    code, _, err = call("node", "join", "node", "--member", "acme", "--core", core.url, "--invitation", token)
    assert code == 0, err
    yield core


def test_published_listed_and_taken_back(joined: CoreUnderTest, call: Call) -> None:
    would = answer(call, "build", "publish", "hsb", "--node", "node", "--dry-run")["would_send"]
    assert would["derivative"] == "hsb" and would["shown"]["figures"] is None
    assert answer(call, "build", "list", "--node", "node")["derivatives"] == [], "a dry run sends nothing"
    levels = (
        "--visibility",
        "parent=private",
        "--visibility",
        "languages=private",
        "--visibility",
        "licence=public",
    )
    published = answer(call, "build", "publish", "hsb", "--node", "node", *levels)["published"]
    assert published["public"] == ["licence"] and published["shown"]["languages"] is None
    row = answer(call, "build", "list", "--node", "node")["derivatives"][0]
    lineage = Lineage.load(Path("hsb/lineage.json"))
    assert (row["owner"], row["derivative"], row["level"]) == ("acme", "hsb", "national")
    assert (row["weights"], row["lineage"]) == (lineage.weights, lineage.digest)
    assert answer(call, "build", "list", "--node", "node", "--level", "global")["derivatives"] == []
    assert answer(call, "build", "show", "acme/hsb", "--node", "node")["derivatives"] == [row]
    assert "acme/hsb" in call("build", "tree", "--node", "node")[1]
    assert "derivative" in [line["kind"] for line in answer(call, "node", "egress", "node")["egress"]]
    assert call("build", "publish", "hsb", "--node", "node", "--take-back")[0] == 0
    assert answer(call, "build", "list", "--node", "node")["derivatives"] == []
    code, _, err = call("build", "show", "hsb", "--node", "node")
    assert code == 5 and "no member shows a derivative hsb" in err


def test_only_the_owner_and_only_what_is_so(joined: CoreUnderTest, call: Call, here: Path) -> None:
    made.finished(here / "hsb", here / "old", owner="birch", name="hsb")
    code, _, err = call("build", "publish", "hsb", "--node", "node")
    assert code == 2 and "is of birch, and the node in" in err
    made.finished(here / "hsb", here / "old", owner="acme", name="hsb", weights="5" * 64)
    code, _, err = call("build", "publish", "hsb", "--node", "node")
    assert code == 2 and "not the one its lineage is of" in err
    made.finished(here / "hsb", here / "old", owner="acme", name="hsb")
    for words, says in (
        (("--figure", "bits-per-byte"), "no evaluation of this model"),
        (("--visibility", "path=public"), "is not FIELD=LEVEL"),
        (("--entitlement", "nothing.json"), "cannot be read"),
    ):
        code, _, err = call("build", "publish", "hsb", "--node", "node", *words)
        assert code == 2 and says in err, err
    assert answer(call, "build", "list", "--node", "node")["derivatives"] == []


def test_carried_over_drawn_and_exported(here: Path, call: Call) -> None:
    Path("de.txt").write_text("Ein kurzer Text, der nirgends sonst steht.\n" * 10)
    code, _, err = call("build", "port", "hsb", "--to", "new", "--out", "hsb-2")
    assert code == 2 and "--from" in err, "there is no recipe that names the old base"
    words = ("--from", "old", "--out", "hsb-2", "--text", "de=de.txt")
    told = answer(call, "build", "port", "hsb", "--to", "new", *words, "--rebuilt", "hsb")
    assert (told["owner"], told["method"], told["tokens_added"]) == ("acme", "full", 0)
    gain = told["gains"][0]
    assert gain["name"] == "de" and gain["denominator"] == pytest.approx(gain["new_base"] - gain["rebuilt"])
    drawn = answer(call, "build", "tree", "hsb", "hsb-2", "--picture", "tree.svg")["tree"]
    assert (
        drawn[0]["below"][0]["name"] == "acme/hsb" and drawn[0]["below"][0]["below"][0]["name"] == "acme/hsb"
    )
    assert Path("tree.svg").read_text().lstrip().startswith("<?xml")
    assert call("build", "tree", "hsb", "--picture", "tree.gif")[0] == 2
    assert call("build", "tree")[0] == 2
    assert call("member", "init", "acme", "--name", "acme")[0] == 0
    signed = answer(call, "build", "export", "hsb-2", "--format", "gguf", "--member", "acme")
    assert signed["signed"] and signed["compared"]["largest_logit_difference"] <= 1e-4
    assert Path("hsb-2/export/gguf/signatures/acme.sig").is_file()
    assert call("member", "init", "birch", "--name", "birch")[0] == 0
    code, _, err = call("build", "export", "hsb-2", "--format", "hf", "--member", "birch")
    assert code == 2 and "the derivative is of acme" in err
    assert call("build", "export", "hsb-2", "--format", "onnx")[0] == 2
    assert call("build", "port", "hsb", "--to", "new", "--heal", "-1")[0] == 2
    assert call("build", "port", "hsb", "--to", "new", "--text", "de")[0] == 2
    assert call("build", "rebase", "hsb", "--to", "new")[0] == 2, "there is no recipe"
