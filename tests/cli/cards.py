"""What tests of the catalog's commands have in common."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.cli.conftest import Call

GIVEN: Final = (
    *("--license", "CC-BY-4.0"),
    *("--language", "de"),
    *("--residency", "CH"),
    *("--category", "open"),
    *("--stage", "base"),
)
"""Options of a card that lets text into a base."""


def answer(call: Call, *arguments: object) -> Any:
    """What a command says as JSON; it must succeed."""
    code, found, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(found)
