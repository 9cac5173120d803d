"""`tapestry catalog curate`, and what the catalog says of curated and of protected text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cards import GIVEN, answer
from tests.cli.conftest import Call
from tests.curation.made import GERMAN, TEXTS, prose
from tests.training.support import Node

CANARY = "canary-77aa01@example.org"
SONGS = (
    'format = "tapestry.protected"\nversion = 1\n[[topics]]\nname = "songs"\nterms = {de = ["Regenlied"]}\n'
)


def lines(*texts: str) -> str:
    return "".join(json.dumps({"text": text, "source": "s"}) + "\n" for text in texts)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train.jsonl").write_text(
        lines(
            GERMAN,
            GERMAN,
            TEXTS["vi"],
            "",
            "Kurz.",
            f"Das Regenlied: {GERMAN[:120]} {prose(1, 10)}",
            f"{GERMAN} {CANARY}",
        )
    )
    (folder / "train-more.txt").write_text(
        GERMAN[:130] + " Und dann kam der Regen über die Stadt und alle schliefen."
    )
    (folder / "valid.txt").write_text(GERMAN[100:])
    return tmp_path


def curate(call: Call, out: str, *more: object) -> Any:
    code, found, err = call(
        "catalog", "curate", "raw", "--out", out, "--language", "de", "--processes", 1, "--json", *more
    )
    assert code == 0, err
    return json.loads(found)


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_a_folder_is_curated_carded_and_shown(here: Path, call: Call) -> None:
    before = bytes_of(here / "raw")
    told = curate(call, "text", "--processes", 2)
    assert bytes_of(here / "raw") == before, "the folder is never written to"
    assert [(step["name"], step["reasons"]) for step in told["steps"]] == [
        ("language", {"other-language": 1}),
        ("quality", {"short": 1}),
        ("duplicates", {"nearly-same": 1, "same": 1}),
        ("pii", {}),
    ]
    texts = [json.loads(line)["text"] for line in (here / "text" / "train.jsonl").read_text().splitlines()]
    assert texts[1] == GERMAN and TEXTS["vi"] not in texts
    assert json.loads((here / "text" / "curation.json").read_text()) == told
    code, root, err = call("catalog", "add", "text", "--name", "letters", *GIVEN)
    assert code == 0, err
    assert root.strip() == told["result"]["root"]
    code, card, _ = call("catalog", "show", "letters", "--json")
    lineage = json.loads(card)["tapestry:lineage"]
    assert lineage["prov:wasDerivedFrom"]["tapestry:root"] == told["source"]["root"]
    assert [each["name"] for each in lineage["prov:wasGeneratedBy"]] == [
        "language",
        "quality",
        "duplicates",
        "pii",
    ]
    assert "duplicates (rensa " in call("catalog", "show", "letters")[1]
    code, raw, err = call("catalog", "add", "raw", "--name", "raw", *GIVEN)
    assert raw.strip() == told["source"]["root"], "what a card of the first folder names"


def test_the_same_text_and_settings_give_the_same_bytes(here: Path, call: Call) -> None:
    curate(call, "one")
    curate(call, "two", "--processes", 2)
    assert bytes_of(here / "one") == bytes_of(here / "two")


def test_text_that_changed_since_has_another_lineage(here: Path, call: Call) -> None:
    curate(call, "text")
    with (here / "text" / "train.jsonl").open("a") as file:
        file.write(lines("Noch etwas."))
    code, _, err = call("catalog", "add", "text", "--name", "letters", *GIVEN)
    assert code == 2 and "lineage.json" in err and "hint:" in err


def test_a_report_alone_writes_nothing_and_text_is_shown_only_where_asked(here: Path, call: Call) -> None:
    before = sorted(here.iterdir())
    code, out, err = call("catalog", "curate", "raw", "--report-only", "--language", "de", "--processes", 1)
    assert code == 0, err
    assert sorted(here.iterdir()) == before
    assert "other-language 1" in out and "note: " in err
    assert "Buổi" not in out + err and CANARY not in out + err
    _, out, err = call(
        "catalog", "curate", "raw", "--report-only", "--language", "de", "--processes", 1, "--show"
    )
    assert "Buổi" in err and "Buổi" not in out


def test_nothing_but_the_text_holds_text(here: Path, call: Call) -> None:
    curate(call, "text", "--settings", write(here / "s.toml", "[duplicates]\naction = 'off'\n"))
    assert CANARY in (here / "text" / "train.jsonl").read_text(), "the control: it is in what stays"
    for name in ("curation.json", "lineage.json"):
        assert CANARY not in (here / "text" / name).read_text()
    curate(
        call,
        "clean",
        "--settings",
        write(here / "s.toml", "[pii]\nredact = true\n[duplicates]\naction = 'off'\n"),
    )
    assert CANARY not in (here / "clean" / "train.jsonl").read_text()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_what_a_node_protects_is_left_out_and_counted(here: Path, call: Call) -> None:
    node = Node.make(here / "node")
    (node.root / "protected.toml").write_text(SONGS)
    assert "Regenlied" in curate_and_read(call, here, "without")
    told = curate(call, "with", "--home", node.root)
    assert "Regenlied" not in (here / "with" / "train.jsonl").read_text()
    assert told["steps"][0]["reasons"] == {"songs": 1}
    assert call("catalog", "add", "raw", "--name", "raw", *GIVEN, "--home", node.root)[0] == 0
    code, found, err = call("catalog", "check", "raw", "--home", node.root, "--json")
    assert code == 0, err
    assert json.loads(found)["datasets"][0]["withheld"] == {"songs": 1}
    assert "withheld, songs: 1 documents" in call("catalog", "check", "raw", "--home", node.root)[1]
    (node.root / "protected.toml").write_text("nonsense")
    for command in (("check", "raw"), ("curate", "raw", "--report-only")):
        code, _, err = call("catalog", *command, "--home", node.root)
        assert code == 2 and "protected.toml" in err and "hint:" in err


def test_a_folder_that_is_no_node_protects_nothing_and_is_refused(here: Path, call: Call) -> None:
    code, _, err = call("catalog", "curate", "raw", "--out", "x", "--home", "nod", "--processes", 1)
    assert code == 2 and "is not a node's home" in err and not (here / "x").exists()
    told = curate(call, "with", "--home", Node.make(here / "node").root)
    assert any("has no protected.toml" in line for line in told["notes"])


def curate_and_read(call: Call, here: Path, out: str) -> str:
    curate(call, out)
    return (here / out / "train.jsonl").read_text()


def test_evaluation_sets_are_looked_for(here: Path, call: Call) -> None:
    (here / "sets").mkdir()
    (here / "sets" / "questions.jsonl").write_text(lines(GERMAN[:160], "Wer?"))
    given = ("raw", "--report-only", "--language", "de", "--processes", 1, "--evaluation", "sets")
    told = answer(call, "catalog", "curate", *given)
    (step,) = (step for step in told["steps"] if step["name"] == "contamination")
    assert step["reasons"]["shared-text"] >= 2
    assert any("1 of 2 evaluation documents are too short" in line for line in told["notes"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "raw"], "is there already"),
        ([], "either --out or --report-only"),
        (["--out", "x", "--report-only"], "either --out or --report-only"),
        (["--out", "x", "--name", "letters"], "--name needs --home"),
        (["--out", "x", "--settings", "nowhere.toml"], "nowhere.toml"),
        (["--out", "x", "--evaluation", "raw/nothing"], "holds no evaluation sets"),
        (["--out", "x", "--language", "ja"], "none is left"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    here: Path, call: Call, more: list[str], said: str
) -> None:
    before = sorted(here.rglob("*"))
    code, out, err = call("catalog", "curate", "raw", "--processes", 1, *more)
    assert code in (2, 5) and said in err and "hint:" in err, err
    assert sorted(here.rglob("*")) == before and not out
