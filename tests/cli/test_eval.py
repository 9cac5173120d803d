"""`tapestry eval` and `tapestry build constitution` as they are called."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Call
from tests.sovereign.evaluated import jsonl, model

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_constitution_from_the_first_file_to_pairs(call: Call, tmp_path: Path) -> None:
    file, text = tmp_path / "c.toml", tmp_path / "text"
    text.mkdir()
    jsonl(text / "train.jsonl", [{"text": "Un chant de pluie."}, {"text": "Du fromage."}])
    assert call("build", "constitution", "init", file)[0] == 0
    code, _, err = call("build", "constitution", "init", file)
    assert code == 2 and "exists" in err
    code, out, _ = call("build", "constitution", "check", file, "--data", text, "--json")
    told = json.loads(out)
    assert code == 0 and told["contradictions"] == [] and told["documents"] == 2
    assert {each["id"]: each["kept_out"] for each in told["entries"]}["rain-songs"] == 1
    code, out, err = call("build", "constitution", "check", file)
    assert code == 0 and "formal-address" in out and "no program checks: sources" in err
    pairs = tmp_path / "pairs.jsonl"
    options = (
        "--model",
        model(tmp_path / "m"),
        "--out",
        pairs,
        "--answers",
        2,
        "--tokens",
        6,
        "--threads",
        1,
    )
    code, out, _ = call("build", "constitution", "pairs", file, *options, "--json")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert code == 0 and json.loads(out)["pairs"] == len(lines) >= 7
    assert all(set(each) == {"prompt", "chosen", "rejected"} for each in lines)
    file.write_text(file.read_text().replace("que vous allez bien", "que tu vas bien"))
    code, out, err = call("build", "constitution", "check", file, "--json")
    assert code == 2 and json.loads(out)["contradictions"][0]["id"] == "formal-address"
    assert "breaks itself" in err and "hint:" in err
    code, _, err = call("build", "constitution", "pairs", file, *options)
    assert code == 2 and "contradicts itself" in err


def test_eval_writes_both_reports_and_a_gate_stops_it(call: Call, tmp_path: Path) -> None:
    pairs = jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4)
    (tmp_path / "g.toml").write_text("preferences = 0.0\ninstructions = 0.5\n")
    one = model(tmp_path / "m")
    code, out, err = call(
        *(
            "eval",
            one,
            "--pairs",
            pairs,
            "--survey",
            EXAMPLES / "survey.json",
            "--gates",
            tmp_path / "g.toml",
        ),
        *("--out", tmp_path / "out", "--resamples", 100, "--threads", 1, "--json"),
    )
    assert code == 5, err
    assert "the gate instructions wants at least 0.5" in err and "not measured" in err
    told = json.loads(out)
    assert told == json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert [each["gate"] for each in told["unmet"]] == ["instructions"]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_eval_says_what_is_wrong_as_any_command(call: Call, tmp_path: Path) -> None:
    for arguments, said in (
        (("--texts", "fr"), "does not say a language and a folder"),
        (("--texts", "fr=a", "--texts", "fr=b"), "names fr twice"),
        (("--device", "tpu"), "neither cpu nor cuda"),
    ):
        code, _, err = call("eval", tmp_path, *arguments)
        assert code == 2 and said in err
