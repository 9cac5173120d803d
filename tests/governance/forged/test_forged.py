"""A few forged messages of each class; `make forged` tries ten thousand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tapestry.errors import AuthError
from tests.attacks.switches import Switches
from tests.governance.forged import campaign
from tests.governance.forged.requests import ALL_PUBLIC, NOBODY, desk
from tests.governance.forged.table import listed, load

PAGE = Path(__file__).parents[3] / "docs" / "security" / "governance.md"


def test_none_is_accepted_and_each_passes_with_its_check_off() -> None:
    found = campaign.run(2 * len(load()), seed=2, each_world=10_000, controls=1)
    assert [each.accepted for each in found if each.accepted] == []
    assert [each.held for each in found if each.held] == []
    assert all((each.messages, each.controls) == (2, 1) for each in found)


def test_there_are_at_least_fifty_classes() -> None:
    table = load().values()
    assert len(table) >= 50
    assert len({each.tries for each in table}) >= len(table) - 8
    assert len({each.who for each in table}) >= 5


def test_the_page_lists_them() -> None:
    """Written by: python -m tests.governance.forged --page"""
    assert listed() in PAGE.read_text(encoding="utf-8")


OPEN_TO_ALL = {("GET", "/v1/hello"), ("POST", "/v1/join")}
"""Who asks these is not known yet."""
PUBLIC = {("GET", "/v1/charter"), ("GET", "/v1/members")}
"""By the charter of these tests."""


def test_a_core_answers_members_alone() -> None:
    """So what a charter keeps in the consortium stays there: no path answers who does not say who it is, but
    those of what this charter makes public."""
    routes = desk().routes
    assert set(routes) > OPEN_TO_ALL and len(routes) > 20
    for method, path in sorted(set(routes) - OPEN_TO_ALL - PUBLIC):
        target = re.sub(r"\{[a-z]+\}", "0" * 64, path)
        with pytest.raises(AuthError):
            desk().ask(method, target, b"", None)
    for method, path in PUBLIC:
        desk().ask(method, path, b"", None)
    with Switches().all_off(NOBODY):
        desk().ask("GET", "/v1/derivatives", b"", None)
    with Switches().all_off(ALL_PUBLIC):
        desk().ask("GET", "/v1/runs", b"", None)
