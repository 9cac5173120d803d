"""`tapestry build`: what the commands write, run and tell."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tapestry.host import processes
from tapestry.sovereign import recipe
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tests import warm
from tests.cli.conftest import Call
from tests.sovereign import support


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli-build")
    support.make_all(root)
    return root


@pytest.fixture
def warmed() -> Iterator[None]:
    """Processes of builds are forked from one that has loaded what they need."""
    before = processes.spawn
    warm.spawns()
    yield
    processes.spawn = before


def init(call: Call, place: Path, name: str, *more: object) -> tuple[int, str, str]:
    given = (
        "--base",
        place / "base",
        "--owner",
        "domowina",
        "--residency",
        "DE",
        "--catalog",
        place / "cards",
    )
    return call("build", "init", place / name, *given, *more)


def test_init_writes_a_recipe_that_parses_and_says_what_it_means(call: Call, place: Path) -> None:
    data = [option for name in ("text", "examples", "pairs") for option in (f"--{name}", place / name)]
    code, out, err = init(call, place, "one", *data, "--language", "hsb", "--level", "national", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["stages"] == ["cpt", "sft", "dpo"]
    read, text = recipe.read(Path(said["recipe"]))
    assert (read.name, read.level, read.languages) == ("one", "national", ("hsb",))
    assert (place / "one" / read.base).resolve() == place / "base"
    assert read.stage[0].sequence_length == 256, "what the base can look at"
    assert text.count(b"#") > 10
    assert tomllib.loads(text.decode())["stage"][2]["beta"] == 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "error: a build without data would be its base"),
        (("--text", "t", "--owner", "Domowina"), "cannot be the name of a member"),
        (("--text", "t", "--level", "world"), "level: input should be 'global'"),
        (("--text", "t", "--base", "nowhere"), "error: base: there is no model in nowhere"),
        (("--text", "t", "--residency", "XX"), "no country code"),
    ],
)
def test_init_refuses_what_could_not_be_run(
    call: Call, place: Path, more: tuple[str, ...], said: str
) -> None:
    code, out, err = init(call, place, "none", *more)
    assert (code, out) == (2, "")
    assert said in err
    assert "hint: " in err
    assert not (place / "none" / "build.toml").exists()


def test_init_leaves_a_recipe_that_is_there(call: Call, place: Path) -> None:
    assert init(call, place, "two", "--text", "t")[0] == 0
    code, _, err = init(call, place, "two", "--text", "t")
    assert code == 2
    assert "there is a recipe in" in err


def test_without_a_node_the_country_is_asked_for(call: Call, place: Path) -> None:
    given = ("--base", place / "base", "--owner", "domowina", "--text", "t")
    code, _, err = call("build", "init", place / "three", *given)
    assert code == 2
    assert "--residency CC" in err


def test_run_status_and_resume(call: Call, place: Path, warmed: None) -> None:
    home = support.make_build(place / "run", support.HEAD + support.SFT)
    code, out, err = call("build", "status", home.root)
    assert code == 0, err
    assert "not begun" in out
    code, _, err = call("build", "resume", home.root)
    assert code == 2
    assert "has not begun" in err
    code, out, err = call("build", "run", home.root, "--json")
    assert code == 0, err
    said = json.loads(out)
    made = Lineage.load(home.lineage)
    assert (said["phase"], said["weights"], said["adapter"]) == ("done", made.weights, str(home.adapter))
    assert said["isolation"] in ("netns", "process")
    assert said["done"][0]["steps"] == 4
    began = home.model.stat().st_mtime_ns
    code, out, _ = call("build", "resume", home.root)
    assert code == 0
    assert "instructions" in out
    assert home.model.stat().st_mtime_ns == began, "nothing is done again"


def test_what_is_wrong_is_told_as_it_is_in_the_build(call: Call, place: Path, warmed: None) -> None:
    text = support.HEAD + support.SFT.replace('["answers"]', '["texts"]')
    home = support.make_build(place / "wrong", text)
    code, out, err = call("build", "run", home.root)
    assert (code, out) == (2, "")
    assert "error: stage 1: dataset texts may not enter stage sft: rule stage" in err
    assert "hint: its owner would have to permit the stage" in err
    said: dict[str, Any] = json.loads(call("build", "status", home.root, "--json")[1])
    assert said["phase"] == "failed"
    assert said["error"]["code"] == "rights"


def test_one_that_runs_is_not_run_twice(call: Call, place: Path) -> None:
    home = support.make_build(place / "twice", support.HEAD + support.SFT)
    from tapestry.sovereign.status import Teller

    Teller(home.status, lead=True).update(phase="training", stage=1, kind="sft", step=3, steps=4)
    with home.lock:
        code, _, err = call("build", "run", home.root)
        assert code == 6
        assert "is running already" in err
        assert "step 3 of 4" in call("build", "status", home.root)[1]


def test_there_is_no_build(call: Call, tmp_path: Path) -> None:
    code, _, err = call("build", "run", tmp_path)
    assert code == 2
    assert "there is no recipe at" in err
    assert not BuildHome(tmp_path).status.exists()
