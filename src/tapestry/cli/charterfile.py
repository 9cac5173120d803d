"""The charter file: TOML, from which a `Charter` is made.

    format = "tapestry.charter-file"
    version = 1
    title, revision
    [members]            NAME = { title, seats, roles }
    [voting] [contribution] [entitlements] [data] [public] [release] [deadlines]     as in the charter itself
    [decisions.usual]    the rule of every kind of decision that has no table of its own
    [decisions.KIND]     what is different there
    [phases.NAME]        what must be brought before a part of the work begins; may be left out

The tables are those of `tapestry.governance.charter`, so a field is described in one place.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from tapestry.cli import tomlfile
from tapestry.errors import CharterError
from tapestry.governance.charter import Charter, Member, Rule
from tapestry.governance.phases import Phase
from tapestry.governance.resources import RESOURCES, is_resource
from tapestry.governance.words import KINDS

FORMAT: Final = "tapestry.charter-file"
VERSION: Final = 1
MAX_BYTES: Final = 1 << 18
USUAL: Final = "usual"
_OPTIONAL: Final = ("voting", "contribution", "entitlements", "data", "public", "deadlines")
_WORDS: Final = {
    "extra_forbidden": "there is no such field",
    "string_pattern_mismatch": "is no name",
    "missing": "is needed",
    "string_type": 'is text in quotes, such as "2/3" or "14 days"',
    "int_type": "is a whole number",
    "bool_type": "is true or false",
    "tuple_type": 'is a list, such as ["member", "steward"]',
    "model_type": "is a table",
    "dict_type": "is a table",
}
Where = list[str]


def parse(data: bytes, *, what: str) -> Charter:
    """A charter from the bytes of its file; `what` names it in errors. Raises `CharterError`."""
    value, text = tomlfile.read(
        data, what=what, format=FORMAT, version=VERSION, max_bytes=MAX_BYTES, error=CharterError
    )
    own = value.get("decisions")
    own = own if isinstance(own, dict) else {}
    fields = {key: each for key, each in value.items() if key not in _HEAD}
    whole = {"title": "", "revision": 1, **{table: {} for table in _OPTIONAL}, **fields}
    if own:
        whole["decisions"] = _every_kind(own, what, text)
    if "phases" in whole:
        whole["phases"] = _one_deep(whole["phases"], what)
    try:
        return Charter.model_validate(tomlfile.as_tuples(whole))
    except ValidationError as e:
        raise _error(e, text, what, own) from e


def _every_kind(own: dict[str, Any], what: str, text: str) -> dict[str, Any]:
    """The rule of each kind: the usual one, with what is different there. Raises `CharterError`."""
    usual = own.get(USUAL, {})
    for kind, table in own.items():
        if not isinstance(table, dict) or kind not in (USUAL, *KINDS):
            place = _place(what, text, ["decisions", kind])
            said = "is a table" if kind in (USUAL, *KINDS) else "there is no such kind of decision"
            raise CharterError(f"{place}: decisions.{kind}: {said}", hint=f"kinds: usual, {', '.join(KINDS)}")
    return {kind: {**usual, **own.get(kind, {})} for kind in KINDS}


def _one_deep(phases: Any, what: str) -> Any:
    """TOML reads `data.fr` as a table `data`; in a charter it is one name. Raises `CharterError` where it is
    written in both ways."""
    if not isinstance(phases, dict):
        return phases
    found = {}
    for name, phase in phases.items():
        needs = phase.get("needs") if isinstance(phase, dict) else None
        data = needs.get("data") if isinstance(needs, dict) else None
        if isinstance(needs, dict) and isinstance(data, dict):
            flat = {key: each for key, each in needs.items() if key != "data"}
            deep = {f"data.{language}": each for language, each in data.items()}
            if twice := sorted(flat.keys() & deep.keys()):
                raise CharterError(
                    f"{what}: phases.{name}.needs.{twice[0]} is written twice, with quotes and without",
                    hint="leave one of the two out",
                )
            flat |= deep
            phase = {**phase, "needs": flat}
        found[name] = phase
    return found


def _place(what: str, text: str, where: Where) -> str:
    line = tomlfile.line_of(text, where)
    return f"{what}, line {line}" if line else what


def _written(where: Where, own: dict[str, Any]) -> Where:
    """Where in the file a rule comes from: its own table, or the usual one."""
    if len(where) >= 2 and where[0] == "decisions":
        mine = own.get(where[1])
        if not isinstance(mine, dict) or (len(where) > 2 and where[2] not in mine):
            return ["decisions", USUAL, *where[2:]]
    return where


def place_of(path: Path, where: str) -> str:
    """`FILE, line N` of a field of the charter that the file holds."""
    text = path.read_text(encoding="utf-8")
    own = tomllib.loads(text).get("decisions", {})
    return _place(str(path), text, _written(where.split("."), own))


def _error(error: ValidationError, text: str, what: str, own: dict[str, Any]) -> CharterError:
    """The first fault in one sentence with the field's name and its line; misspelt fields come first, since
    one also makes another missing."""
    first = tomlfile.faults(error)[0]
    context = first.get("ctx", {})
    where = [str(part) for part in first["loc"] if part != "[key]"]
    if first["type"] == "charter":
        where = str(context["where"]).split(".")
    where = _written(where, own)
    name = f"{'.'.join(where)}: " if where else ""
    if where[0:1] == ["phases"] and "needs" in where and not is_resource(".".join(where[3:])):
        unknown = f"{_place(what, text, where)}: {name}is no resource"
        return CharterError(unknown, hint=f"one of: {RESOURCES}")
    said = _WORDS.get(
        first["type"], first["msg"].removeprefix("Value error, ").replace("Input should be", "is")
    )
    given = first.get("input")
    if isinstance(given, str | int | float) and first["type"] not in ("extra_forbidden", "value_error"):
        said += f", not {given!r}"
    hint = str(context["way_out"]) if first["type"] == "charter" else _hint(first["type"], where)
    return CharterError(f"{_place(what, text, where)}: {name}{said}", hint=hint)


def _hint(kind: str, where: Where) -> str:
    if kind == "string_pattern_mismatch":
        return "a name is of a-z, 0-9, '.', '_' and '-', at most 64, a letter or digit first and last"
    if kind == "extra_forbidden":
        model: type[BaseModel] = Charter
        if where[0] in _MODELS and len(where) > 2:
            model = _MODELS[where[0]]
        elif len(where) > 1 and where[0] in Charter.model_fields:
            found = Charter.model_fields[where[0]].annotation
            model = found if isinstance(found, type) and issubclass(found, BaseModel) else Charter
        return f"fields here: {', '.join(name for name in model.model_fields if name not in _HEAD)}"
    return "examples/charter-5.toml is a charter with every field"


_HEAD: Final = ("format", "version")
_MODELS: Final[dict[str, type[BaseModel]]] = {"members": Member, "decisions": Rule, "phases": Phase}


def load(path: Path) -> Charter:
    """Read and validate a charter file. Raises `CharterError`."""
    data = tomlfile.bytes_of(path, kind="a charter file", max_bytes=MAX_BYTES, error=CharterError)
    return parse(data, what=str(path))
