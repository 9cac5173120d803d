"""The guides name every field of plan, core and node settings, with default and limits as in the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tapestry.cli import planfile
from tapestry.core import settings as core_settings
from tapestry.governance.planner.members import MembersFile
from tapestry.node import settings as node_settings
from tapestry.sovereign import recipe as build_recipe

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| (.*?) \| (.*?) \| *(.*?) *\|$", re.MULTILINE)

PAGES: dict[str, type[BaseModel]] = {
    "plan-file.md": planfile.PlanFile,
    "planner.md": MembersFile,
    "run-a-core.md": core_settings.CoreSettings,
    "run-a-node.md": node_settings.NodeSettings,
    "islands.md": node_settings.NodeSettings,
    "build-file.md": build_recipe.Recipe,
}
OF_EVALUATION = "gates"
"""Table of build.toml that the guide on evaluation tells of."""
OF_CLUSTERS = ("slurm", "kubernetes")
"""Tables of node.toml that `islands.md` tells of, not `run-a-node.md`."""


def number(value: float) -> str:
    """As the page writes it: large powers of two as such."""
    if isinstance(value, int) and value >= 1 << 16:
        for plus, text in ((0, ""), (1, " - 1")):
            if (value + plus) & (value + plus - 1) == 0:
                return f"2^{(value + plus).bit_length() - 1}{text}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, BaseModel):
        return "`{ " + ", ".join(f'{key} = "{each}"' for key, each in value) + " }`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{one}"' if isinstance(one, str) else number(one) for one in value) + "]`"
    return number(value)


def bounds(field: FieldInfo) -> str | None:
    """Limits of a number, or the words to choose from; None where neither says all."""
    if get_origin(field.annotation) is Literal:
        words = get_args(field.annotation)
        return ", ".join(f'`"{one}"`' if isinstance(one, str) else str(one) for one in words)
    found = {
        name: getattr(each, name)
        for each in field.metadata
        for name in ("gt", "ge", "lt", "le")
        if getattr(each, name, None) is not None
    }
    if not found:
        return None
    signs = {"gt": "above {}", "ge": "from {}", "lt": "below {}", "le": "to {}"}
    return " ".join(signs[name].format(number(value)) for name, value in found.items())


def tables(model: type[BaseModel], name: str = "") -> dict[str, dict[str, FieldInfo]]:
    """Fields by table; the table "" is the top of the file."""
    found: dict[str, dict[str, FieldInfo]] = {name: {}}
    for key, field in model.model_fields.items():
        types = [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type)]
        inner = [t for t in types if issubclass(t, BaseModel)]
        if len(inner) == 1:  # of several one is chosen by its kind, and given as a value
            found |= tables(inner[0], f"{name}.{key}" if name else key)
        else:
            found[name][key] = field
    return {table: fields for table, fields in found.items() if fields}


def sections(page: str) -> dict[str, str]:
    """Text below each heading that is a table's name, `## [rounds]`, and of `## Top of the file`."""
    parts = re.split(r"^##? (.*)$", page, flags=re.MULTILINE)
    titles = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {
        "" if title == "Top of the file" else title.strip("[]"): body
        for title, body in titles.items()
        if title == "Top of the file" or title.startswith("[")
    }


OF_OTHER_PLANS = {"adopt", "licence", "add_tokens", "error_feedback", "algorithm", "seconds"}


@pytest.mark.parametrize("name", PAGES)
def test_every_field_is_on_the_page_as_it_is_in_the_code(name: str) -> None:
    page = sections((GUIDES / name).read_text(encoding="utf-8"))
    wanted = tables(PAGES[name])
    if PAGES[name] is node_settings.NodeSettings:
        other = name == "islands.md"
        wanted = {key: each for key, each in wanted.items() if key.startswith(OF_CLUSTERS) == other}
    wanted = {key: each for key, each in wanted.items() if key.partition(".")[0] != OF_EVALUATION}
    assert set(page) - {"model.config"} == set(wanted)
    for table, fields in wanted.items():
        rows = {row[0]: row[1:] for row in ROW.findall(page[table])}
        assert list(rows) == list(fields), table
        for key, field in fields.items():
            meaning, said_default, said_limits = rows[key]
            assert meaning
            assert said_default == default(field), f"{table}.{key}"
            if (limits := bounds(field)) is not None:
                assert said_limits == limits, f"{table}.{key}"


def test_the_example_has_every_field() -> None:
    text = (ROOT / "examples" / "plan.toml").read_text(encoding="utf-8")
    value: dict[str, Any] = tomllib.loads(text)
    for table, fields in tables(planfile.PlanFile).items():
        if "." in table or table == "origin":
            continue  # of a list, which is empty; in the place of [model]
        given = value if not table else value[table]
        assert set(fields) - OF_OTHER_PLANS <= set(given), table


@pytest.mark.parametrize("page", ["plan-file.md", "first-consortium.md"])
def test_plans_on_a_page_are_plans(page: str) -> None:
    text = (GUIDES / page).read_text(encoding="utf-8")
    found = re.findall(r'^(format = "tapestry\.plan-file"\n.*?)^(?:END|```)$', text, re.MULTILINE | re.DOTALL)
    assert found
    for plan in found:
        planfile.parse(plan.encode(), what=page)
