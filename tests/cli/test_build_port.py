"""`tapestry build port --heal` and `tapestry build rebase`, from a recipe to the next base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapestry.host import processes
from tapestry.sovereign import models
from tapestry.sovereign.directory import Tensors, weights_digest
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage
from tapestry.training.shelf import Shelf
from tests import warm
from tests.cli.conftest import Call
from tests.sovereign import made, support

METHODS = {
    "full": support.CPT,
    "lora": support.CPT.replace('method = "full"', 'method = "lora"\nlora = { rank = 4, alpha = 8.0 }'),
}


@pytest.fixture(autouse=True)
def warmed() -> Iterator[None]:
    """Processes of builds are forked from one that has loaded what they need."""
    before = processes.spawn
    warm.spawns()
    yield
    processes.spawn = before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its next release, cards and text."""
    root = tmp_path_factory.mktemp("cli-port")
    support.make_all(root)
    made.changed(root / "base", root / "base-2", made.noise(5, 0.002))
    return root


def built(call: Call, place: Path, method: str) -> BuildHome:
    """A derivative by its recipe; made once."""
    home = BuildHome(place / method)
    if not home.root.exists():
        support.make_build(home.root, support.HEAD + METHODS[method])
        code, _, err = call("build", "run", home.root)
        assert code == 0, err
    return home


@pytest.mark.parametrize("method", METHODS)
def test_a_port_that_is_healed(call: Call, place: Path, method: str) -> None:
    source, new = built(call, place, method), place / "base-2"
    plain, healed = BuildHome(place / f"{method}-plain"), BuildHome(place / f"{method}-healed")
    text = f"hsb={place / 'texts' / 'valid.jsonl'}"
    code, out, err = call("build", "port", source.root, "--to", new, "--out", plain.root, "--json")
    assert code == 0, err
    given = ("--heal", 3, "--out", healed.root, "--text", text, "--rebuilt", plain.root, "--json")
    code, out, err = call("build", "port", source.root, "--to", new, *given)
    assert code == 0, err
    said, lineage = json.loads(out), Lineage.load(healed.lineage)
    assert [(s.kind, s.method, s.steps) for s in lineage.stages] == [
        ("cpt", method, 4), ("port", "arithmetic", 0), ("heal", method, 3),
    ]  # fmt: skip
    assert [d.name for d in lineage.stages[2].datasets] == ["texts"], "what it was healed with is told"
    assert lineage.base == models.base_of(new)
    assert lineage.parent is not None
    assert lineage.parent.lineage == Lineage.load(source.lineage).digest
    assert (said["healed_steps"], said["method"], said["weights"]) == (3, method, lineage.weights)
    assert weights_digest(healed.model) == lineage.weights
    assert Lineage.load(healed.model / "lineage.json") == lineage
    assert not (healed.root / "heal").exists()
    gain = said["gains"][0]
    assert gain["before"] is not None
    assert gain["lost"] == (gain["ported"] > gain["before"])
    assert gain["ported"] < gain["rebuilt"], "three steps on its own text bring it nearer to that text"
    if method == "lora":
        on_new = made.logits(new, healed.adapter)
        assert on_new.allclose(made.logits(healed.model), atol=1e-4)
        assert Lineage.load(healed.adapter / "lineage.json") == lineage
    again = call(
        "build", "port", healed.root, "--to", place / "base", "--from", new, "--out", place / f"{method}-3"
    )
    assert again[0] == 0, again[2]
    stages = Lineage.load(place / f"{method}-3" / "lineage.json").stages
    assert [stage.kind for stage in stages] == ["cpt", "port", "heal", "port"]


def test_a_factor_is_chosen_by_own_text_and_judged_by_other(call: Call, place: Path) -> None:
    source, new = built(call, place, "lora"), place / "base-2"
    own, held = (f"hsb={place / 'texts' / name}.jsonl" for name in ("train", "valid"))
    given = ("build", "port", source.root, "--to", new, "--fit", own)
    code, _, err = call(*given, "--text", own, "--out", place / "none")
    assert code == 2
    assert "cannot both choose the factor and judge it" in err
    assert not (place / "none").exists()
    code, out, err = call(*given, "--text", held, "--out", place / "fitted", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["factor"] > 1, "after four steps more of the same is better"
    assert made.logits(new, place / "fitted" / "adapter").allclose(
        made.logits(place / "fitted" / "model"), atol=1e-4
    )
    assert not list(place.glob(".*"))


def test_where_the_text_may_not_be_read_any_more_the_port_stays(call: Call, place: Path) -> None:
    source, new, there = built(call, place, "full"), place / "base-2", BuildHome(place / "unhealed")
    card = Shelf(place / "cards").path("texts")
    kept = card.read_bytes()
    support.give_card(place / "cards", place / "texts", "texts", "sft")
    try:
        given = ("--to", new, "--out", there.root, "--heal", 3)
        code, _, err = call("build", "port", source.root, *given)
    finally:
        card.write_bytes(kept)
    assert code != 0
    assert "may not enter stage private-cpt" in err
    assert f"the port itself is whole, in {there.root}; it was not healed" in err
    lineage = Lineage.load(there.lineage)
    assert [stage.kind for stage in lineage.stages] == ["cpt", "port"]
    assert weights_digest(there.model) == lineage.weights


def test_a_rebase_is_the_recipe_on_the_new_base(call: Call, place: Path) -> None:
    source, new, anew = built(call, place, "full"), place / "base-2", BuildHome(place / "anew")
    code, out, err = call("build", "rebase", source.root, "--to", new, "--out", anew.root, "--json")
    assert code == 0, err
    said, lineage = json.loads(out), Lineage.load(anew.lineage)
    assert (said["finished"], said["weights"]) == (True, weights_digest(anew.model))
    assert lineage.base == models.base_of(new)
    assert [(s.kind, s.method, s.steps) for s in lineage.stages] == [("cpt", "full", 4)]
    assert lineage.parent is not None
    assert lineage.parent.lineage == Lineage.load(source.lineage).digest
    assert (anew.parents / f"{lineage.parent.lineage}.json").is_file()
    by_hand = support.HEAD.replace('"../base"', '"../base-2"') + METHODS["full"]
    same = support.make_build(place / "by-hand", by_hand)
    assert call("build", "run", same.root)[0] == 0
    with Tensors(anew.model) as one, Tensors(same.model) as other:
        assert all(one.read(name).equal(other.read(name)) for name in one.names), "and nothing else"
    status = json.loads(call("build", "status", anew.root, "--json")[1])
    assert (status["phase"], status["done"][0]["steps"]) == ("done", 4)


def test_a_rebase_that_is_trained_later(call: Call, place: Path) -> None:
    source, later = built(call, place, "lora"), BuildHome(place / "later")
    given = ("--to", place / "base-2", "--out", later.root, "--prepare")
    code, _, err = call("build", "rebase", source.root, *given)
    assert code == 0, err
    assert f"tapestry build run {later.root}" in err
    assert not later.model.exists()
    code, _, err = call("build", "run", later.root)
    assert code == 0, err
    lineage = Lineage.load(later.lineage)
    assert lineage.adapter
    assert lineage.parent is not None
