"""Lineage as a tree, also from records that somebody made up; and recipes that move to another folder."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import InputError, RecipeError
from tapestry.sovereign import tree
from tapestry.sovereign.port.moved import moved, quoted
from tapestry.sovereign.tree import Made


def made(key: str, parent: str | None = None, base: str = "b", level: str | None = "national") -> Made:
    return Made(
        key=key, name=key, owner="ada", level=level, base=base, base_name=f"base {base}", parent=parent,
        stages=("cpt",),
    )  # fmt: skip


def test_a_tree(tmp_path: Path) -> None:
    found = tree.roots(
        [made("one"), made("two", "one", "c"), made("alone", None, "c", None), made("lost", "gone")]
    )
    assert list(tree.lines(found)) == [
        "base b  (base)",
        "├── ada/lost  (national; cpt)",
        "└── ada/one  (national; cpt)",
        "    └── ada/two  (national; cpt, onto base c)",
        "base c  (base)",
        "└── ada/alone  (level not shown; cpt)",
    ]
    for ending, begins in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        tree.picture(found, tmp_path / f"t{ending}")
        first = (tmp_path / f"t{ending}").read_bytes()
        assert first.startswith(begins)
    with pytest.raises(InputError, match="neither in"):
        tree.picture(found, tmp_path / "t.gif")


keys = st.sampled_from("abcdef")


@given(st.dictionaries(keys, st.none() | keys, max_size=6))
def test_every_derivative_stands_once_also_where_parents_go_in_a_circle(
    parents: dict[str, str | None],
) -> None:
    text = list(tree.lines(tree.roots([made(key, parent) for key, parent in parents.items()])))
    shown = sorted(line.split("ada/")[1][0] for line in text if "ada/" in line)
    assert shown == sorted(parents)


def test_too_many() -> None:
    with pytest.raises(InputError, match="too many"):
        tree.roots([made(f"n{number}") for number in range(501)])


RECIPE = """\
format = "tapestry.build"
base = "../base"   # the old one
cards = './cards "all"'
template = "none"
constitution = "/somewhere/values.toml"

[[stage]]
kind = "cpt"
  data = "texts"
learning_rate = 1e-4
"""


def test_a_recipe_moves(tmp_path: Path) -> None:
    value = tomllib.loads(moved(RECIPE, tmp_path / "old", tmp_path / "new base"))
    assert value["base"] == str(tmp_path / "new base")
    assert value["cards"] == str(tmp_path / 'old/cards "all"')
    assert value["stage"][0]["data"] == str(tmp_path / "old/texts")
    assert (value["template"], value["constitution"]) == ("none", "/somewhere/values.toml")
    again = moved(moved(RECIPE, tmp_path / "old", tmp_path / "b"), tmp_path / "elsewhere", tmp_path / "c")
    assert tomllib.loads(again)["stage"] == value["stage"], "what is absolute stays"
    with pytest.raises(RecipeError, match="a way that is not understood"):
        moved('base = "b"\nstage = [{ kind = "cpt", data = "texts" }]\n', tmp_path, tmp_path / "c")


@given(
    st.text(
        st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=20
    )
)
def test_quoted(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == text
