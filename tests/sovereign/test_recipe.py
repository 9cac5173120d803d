from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import RecipeError
from tapestry.sovereign import recipe
from tests.sovereign.support import CPT, DPO, HEAD, SFT


def parse(text: str) -> recipe.Recipe:
    return recipe.parse(text.encode(), "build.toml")


def test_a_recipe_says_all_that_a_build_needs() -> None:
    read = parse(HEAD + CPT + SFT + DPO)
    assert [each.kind for each in read.stage] == ["cpt", "sft", "dpo"]
    assert [recipe.STAGES[each.kind] for each in read.stage] == ["private-cpt", "sft", "preference"]
    assert read.stage[1].lora.rank == 4
    assert read.machine.threads == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps = 4", "steps = 0"), r"build\.toml, line 18: stage\.0\.steps: .* greater than or equal to 1"),
        (("steps = 4\n", ""), "stage.0: needs either steps or epochs"),
        (("steps = 4", "steps = 4\nepochs = 2"), "needs either steps or epochs"),
        (("batch = 2", "batch_size = 2"), r"line 20: stage\.0\.batch_size: there is no such field"),
        (('data = "../texts"\n', ""), "needs either data, a folder, or datasets"),
        (('base = "../base"\n', ""), "base: is needed"),
        (('cards = "../cards"\n', ""), "needs either node, a node's home, or cards"),
        (('residency = "DE"', 'residency = "DEU"'), "no country code"),
        (('kind = "cpt"', 'kind = "rlhf"'), "stage.0.kind: .*'cpt', 'sft' or 'dpo'"),
        (("learning_rate = 1e-3", "learning_rate = nan"), "stage.0.learning_rate"),
        (("threads = 1", "threads = 1\nprocesses = 4"), "stage 1: batch 2 is not a multiple of 4 processes"),
        (('method = "full"', 'method = "full"\nbeta = 0.1'), "beta is of kind dpo only"),
        (("steps = 4", "steps = 4\nlora = { rank = 2 }"), 'lora is of method "lora" only'),
        (('name = "hsb-1"', 'name = "Hsb 1"'), "name: "),
        (('format = "tapestry.build"\n', ""), "does not state its format"),
        (("version = 1", "version = 2"), "version 2 is not supported"),
        (('base = "../base"', 'base = "../base"\nadapter = "../a"'), "the first stage has method"),
    ],
)
def test_what_is_wrong_is_one_error_with_its_place(change: tuple[str, str], said: str) -> None:
    text = HEAD + CPT
    assert change[0] in text
    with pytest.raises(RecipeError) as raised:
        parse(text.replace(*change, 1))
    assert re.search(said, raised.value.message), raised.value.message
    assert raised.value.hint


def test_a_recipe_without_stages_says_what_to_add() -> None:
    with pytest.raises(RecipeError, match="stage: is needed") as raised:
        parse(HEAD)
    assert raised.value.hint is not None
    assert "[[stage]]" in raised.value.hint


def test_there_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe") as raised:
        recipe.read(tmp_path / "build.toml")
    assert raised.value.hint is not None
    assert "tapestry build init" in raised.value.hint


def test_how_often_it_is_saved_is_no_matter_of_a_stage() -> None:
    one, other = (
        parse(HEAD + CPT.replace("checkpoint_steps = 2", f"checkpoint_steps = {n}")) for n in (2, 3)
    )
    assert one.stage[0].settings == other.stage[0].settings
    assert one.stage[0].settings != parse(HEAD + CPT.replace("steps = 4", "steps = 5")).stage[0].settings


VALUES = st.one_of(
    st.integers(-2, 1 << 40),
    st.floats(),
    st.booleans(),
    st.text(max_size=20),
    st.none(),
    st.lists(st.integers()),
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(recipe.StageTable.model_fields)), VALUES))
def test_any_stage_is_a_stage_or_a_recipe_error(values: dict[str, Any]) -> None:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    text = HEAD + "\n[[stage]]\n" + "\n".join(lines)
    try:
        found = parse(text)
    except RecipeError:
        return
    assert (found.stage[0].steps is None) != (found.stage[0].epochs is None)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_recipe_error(data: bytes) -> None:
    with pytest.raises(RecipeError):
        recipe.parse(data, "build.toml")


def _toml(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value)
    try:
        tomllib.loads(f"x = {text}")
    except ValueError:
        return '"?"'
    return text
