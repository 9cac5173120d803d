"""`tapestry web`: what it refuses to be started as."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call


@pytest.mark.parametrize("named", [True, False])
def test_what_members_see_is_not_shown_under_any_name(call: Call, tmp_path: Path, named: bool) -> None:
    """A page from anywhere, whose name is pointed at this server, would read it in a browser that reaches it.
    The control: with a name it is refused for another reason, as this folder is no member's."""
    more = ("--name", "tapestry.example.org") if named else ()
    told = call("web", "--as", str(tmp_path), "--open-to", "member", "--listen", "0.0.0.0", *more)
    assert told[0] != 0
    assert ("--name HOST" in told[2]) != named
