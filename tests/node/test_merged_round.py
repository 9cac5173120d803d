"""What the trainer is told of its earlier rounds: which of them a merge holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapestry.node.account import Meter
from tapestry.node.home import Home
from tapestry.node.session import Session
from tapestry.transport.connection import Traffic


def session(home: Home, merged: set[int]) -> Session:
    """Of a node whose contributions to these rounds were merged."""
    asked: Any = SimpleNamespace(
        holds=lambda run, number, node, before: (run, node) == ("r", "n") and number in merged
    )
    library = SimpleNamespace(meter=Meter())
    client = SimpleNamespace(traffic=Traffic())
    tools: Any = SimpleNamespace(home=home, node="n", synchronizer=asked, library=library, client=client)
    return Session("r", tools)


@pytest.mark.parametrize(
    ("passed", "merged", "before", "told"),
    [
        (["r.1"], {1}, 2, 1),
        (["r.1"], set(), 2, 0),  # refused, late, or its round abandoned: it returns
        (["r.1", "r.2"], {1}, 3, 1),
        (["r.1", "r.2"], {1, 2}, 9, 2),  # away for some rounds
        (["r.3", "other.7", "r.9"], {3, 9}, 5, 3),  # r.9 is of a history that the core has lost
        ([], set(), 4, 0),
    ],
)
def test_the_newest_round_of_which_nothing_returns(
    tmp_path: Path, passed: list[str], merged: set[int], before: int, told: int
) -> None:
    home = Home(tmp_path)
    home.make_folders()
    for name in passed:
        (home.egress / f"{name}.json").write_text("{}")
    assert session(home, merged)._merged_round(before) == told
