"""A change of key while requests are under way: those signed with the old one are refused afterwards."""

from __future__ import annotations

import time

import pytest

from tapestry.errors import KeyRefused
from tapestry.node import agent, child, setup
from tests.node.conftest import MakeNode


def refused_by_the_core(old: agent.Agent) -> KeyRefused:
    """What the core says to a request of this agent with the key it has now."""
    with pytest.raises(KeyRefused) as caught:
        old._client.runs()
    return caught.value


def test_a_late_refusal_of_the_old_key_does_not_end_the_node(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node("fr")
    running = agent.Agent(node.home, child.Status(node.home, "agent"), once=False)
    try:
        running._client.runs()
        setup.rotate(node.home.root, node.member_dir)
        error = refused_by_the_core(running)
        assert running._stumble("runs", error) == 0.0  # the new key is taken up
        running._client.runs()
        assert running._stumble("run", error) == agent.OLD_KEY_RETRY_S  # another request that was under way

        later = time.monotonic() + agent.OLD_KEY_S + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(KeyRefused):
            running._stumble("run", error)
    finally:
        monkeypatch.undo()
        running.close()


def test_a_revoked_key_ends_the_node_at_once(make_node: MakeNode) -> None:
    node = make_node("fr")
    running = agent.Agent(node.home, child.Status(node.home, "agent"), once=False)
    try:
        setup.revoke(node.home.root, node.member_dir)
        with pytest.raises(KeyRefused, match="revoked"):
            running._stumble("runs", refused_by_the_core(running))
    finally:
        running.close()
