"""The members file an estimate is made with: TOML, a closed schema. `tapestry.governance.planner.members`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tapestry.cli import tomlfile
from tapestry.errors import PlanError
from tapestry.governance.planner.members import Committed, Core, Goal, Member, MembersFile, Prices

FORMAT: Final = "tapestry.members-file"
VERSION: Final = 1
MAX_BYTES: Final = 4 << 20
_TABLES: Final = {"goal": Goal, "core": Core, "prices": Prices, "members": Member, "committed": Committed}


def parse(data: bytes, *, what: str) -> MembersFile:
    """A members file from its bytes; `what` names it in errors. Raises `PlanError`."""
    value, text = tomlfile.read(
        data, what=what, format=FORMAT, version=VERSION, max_bytes=MAX_BYTES, error=PlanError
    )
    try:
        return MembersFile.model_validate(tomlfile.as_tuples(value))
    except ValidationError as e:
        raise PlanError(tomlfile.describe(e, text, what), hint=_hint(e)) from e


def load(path: Path) -> MembersFile:
    """Read and validate a members file. Raises `PlanError`."""
    data = tomlfile.bytes_of(path, kind="a members file", max_bytes=MAX_BYTES, error=PlanError)
    return parse(data, what=str(path))


def _hint(error: ValidationError) -> str:
    first = tomlfile.faults(error)[0]
    if first["type"] == "extra_forbidden":
        tables: list[Any] = [MembersFile]
        tables += [_TABLES[part] for part in first["loc"][:-1] if part in _TABLES]
        return "fields here: " + ", ".join(tables[-1].model_fields)
    return "docs/guides/planner.md has every field; examples/members-70b.toml is a members file"
