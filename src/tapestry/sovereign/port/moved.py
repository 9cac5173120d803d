"""A recipe in another folder: what it names by a path that counts from its own, it names from anywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from tapestry.errors import RecipeError
from tapestry.sovereign.places import place

_PLACES: Final = ("base", "adapter", "node", "cards", "protected", "constitution", "template", "data")
_LINE: Final = re.compile(
    rf"^(\s*(?:{'|'.join(_PLACES)})\s*=\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*')(.*)$", re.MULTILINE
)


def moved(text: str, root: Path, base: Path) -> str:
    """A recipe for another folder and another base: what it names, it names from anywhere.

    Raises:
        RecipeError: it became another recipe, by a way of writing TOML that is not expected here.
    """
    wanted = _absolute(tomllib.loads(text), root)
    wanted["base"] = str(base.absolute())

    def line(found: re.Match[str]) -> str:
        key = found[1].split("=")[0].strip()
        value = tomllib.loads(f"x = {found[2]}")["x"]
        value = str(base.absolute()) if key == "base" else _one(key, value, root)
        return found[1] + quoted(value) + found[3]

    made = _LINE.sub(line, text)
    if tomllib.loads(made) != wanted:
        raise RecipeError(
            "the recipe writes a path in a way that is not understood here",
            hint='give each of base, node, cards, data and so on a line of its own: key = "path"',
        )
    return made


def _absolute(value: dict[str, Any], root: Path) -> dict[str, Any]:
    found = {key: _one(key, each, root) if isinstance(each, str) else each for key, each in value.items()}
    if isinstance(stages := value.get("stage"), list):
        found["stage"] = [_absolute(each, root) for each in stages]
    return found


def _one(key: str, value: str, root: Path) -> str:
    if key not in _PLACES or (key == "template" and not value.endswith(".jinja")):
        return value
    return str(place(root, value))


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
