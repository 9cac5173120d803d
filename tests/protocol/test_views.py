"""What a node is told at once."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.protocol.views import Head, NodeStanding, OpenRound, RunView

SHA = "0" * 64


def standing(node: str, **fields: Any) -> NodeStanding:
    return NodeStanding(**{"node": node, "member": node, "expected": True, **fields})


def view(**fields: Any) -> RunView:
    at = OpenRound(
        round=2,
        fragment=0,
        phase="training",
        state=SHA,
        opened_at="2026-01-01T00:00:00.000Z",
        deadline="2026-01-01T01:00:00.000Z",
        quorum=2,
        nodes=(standing("ada"), standing("bob")),
    )
    base: dict[str, Any] = {
        "run": "run",
        "status": "running",
        "waiting_for": None,
        "sequence": 7,
        "plan": SHA,
        "head": Head(merges=1, state=SHA, round=1),
        "current": at,
        "enrolled": ("ada", "bob"),
    }
    return RunView(**{**base, **fields})


def with_nodes(*nodes: NodeStanding, **fields: Any) -> RunView:
    now = view()
    assert now.current is not None
    return view(current=now.current.model_copy(update={"nodes": nodes, **fields}))


@pytest.mark.parametrize(
    "other",
    [
        view(sequence=8),
        view(waiting_for="one more node"),
        view(enrolled=("ada",)),
        with_nodes(standing("ada", status="received"), standing("bob", status="accepted")),
        with_nodes(standing("ada"), standing("bob", status="refused", reason="not-finite")),
    ],
)
def test_what_can_wait(other: RunView) -> None:
    assert other.gist_for("ada") == view().gist_for("ada")


@pytest.mark.parametrize(
    "other",
    [
        view(status="finished"),
        view(plan="1" * 64),
        view(head=Head(merges=2, state="1" * 64, round=2)),
        view(enrolled=("bob",)),
        view(current=None),
        with_nodes(standing("ada"), standing("bob"), round=3),
        with_nodes(standing("ada"), standing("bob"), phase="merging"),
        with_nodes(standing("ada", expected=False), standing("bob")),
        with_nodes(standing("ada", status="refused", reason="not-finite"), standing("bob")),
        with_nodes(standing("bob")),
    ],
)
def test_what_a_node_must_act_on(other: RunView) -> None:
    assert other.gist_for("ada") != view().gist_for("ada")
