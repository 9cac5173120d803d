"""`tapestry build rebase`: the recipe of a derivative on another base; owner and lineage go along."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tapestry import __version__
from tapestry.errors import ModelError
from tapestry.protocol.canonical import sha256
from tapestry.sovereign import models
from tapestry.sovereign import recipe as recipes
from tapestry.sovereign.constitution import Constitution
from tapestry.sovereign.home import BuildHome
from tapestry.sovereign.lineage import Lineage, Parent
from tapestry.sovereign.places import place
from tapestry.sovereign.port.carry import Source, keep_parents, require_free
from tapestry.sovereign.port.moved import moved, quoted
from tapestry.sovereign.recipe import Recipe


def prepare(source: Source, to: Path, out: Path) -> BuildHome:
    """Make a build's folder whose recipe is the derivative's with another base; nothing is trained yet.

    Raises:
        RecipeError: the derivative has no recipe, or one that does not fit.
        ModelError: it stands on that base already, or begins with an adapter for the old one.
        InputError: something is in `out`.
    """
    require_free(out)
    old = BuildHome(source.root)
    recipe, data = recipes.read(old.recipe)
    if recipe.adapter is not None:
        raise ModelError(
            f"the recipe begins with the adapter {recipe.adapter}, which is for the old base",
            hint="carry that adapter over first with tapestry build port, and name it in a new recipe",
        )
    models.require_base(to)
    base = models.base_of(to)
    was = source.lineage
    if base.weights == was.base.weights:
        raise ModelError(f"the derivative stands on {to} already", hint="name the next base with --to")
    made = BuildHome(out)
    text = moved(data.decode(), source.root, to)
    new = recipes.parse(text.encode(), str(made.recipe))
    constitution = None
    if new.constitution is not None:
        constitution = Constitution.load(place(out, new.constitution)).digest
    assert was.weights is not None  # noqa: S101 - `Source.open` has asked
    fresh = {
        "base": base,
        "parent": Parent(lineage=was.digest, weights=was.weights, base=was.base.weights),
        "recipe": sha256(text.encode()),
        "constitution": constitution,
        "stages": (),
        "weights": None,
        "adapter": False,
        "template": None,
        "files": None,
        "adapter_files": None,
        "release": __version__[:64],
    }
    lineage = Lineage.model_validate({**{name: getattr(was, name) for name in Lineage.model_fields}, **fresh})
    out.mkdir(parents=True, exist_ok=True)
    made.recipe.write_text(text, encoding="utf-8")
    keep_parents(source, out)
    lineage.save(made.lineage)
    return made


def healing(source: Source, ported: Path, to: Path, steps: int) -> tuple[BuildHome, Recipe]:
    """A build of a few steps of the recipe's first stage, from where a port has left the derivative.

    Raises:
        RecipeError: the derivative has no recipe.
    """
    _, data = recipes.read(BuildHome(source.root).recipe)
    text = moved(data.decode(), source.root, to)
    first = tomllib.loads(text)["stage"][0]
    for key in ("epochs", "warmup_steps"):
        first.pop(key, None)
    home = BuildHome(ported)
    lora = home.adapter.is_dir() and first.get("method", "lora") == "lora"
    first |= {"steps": steps, "method": "lora" if lora else "full"}
    if not lora:
        first.pop("lora", None)
    top = {
        key: value for key, value in tomllib.loads(text).items() if key not in ("stage", "gates", "adapter")
    }
    top |= {"base": str(to.absolute() if lora else home.model.absolute())}
    if lora:
        top["adapter"] = str(home.adapter.absolute())
    made = BuildHome(ported / "heal")
    made.root.mkdir()
    made.recipe.write_text(_toml(top) + "\n[[stage]]\n" + _toml(first), encoding="utf-8")
    return made, recipes.read(made.recipe)[0]


def _toml(values: dict[str, Any]) -> str:
    """Plain values, and tables of these as inline tables."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + " }"
    return repr(value)
