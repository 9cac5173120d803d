"""What left a node is counted over all its agents, not only the last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapestry.node.home import Home
from tapestry.node.outbox import Outbox
from tapestry.transport.connection import Traffic


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.make_folders()
    return home


def agent(home: Home, **bytes_of: int) -> Outbox:
    traffic = Traffic()
    outbox = Outbox(home, traffic)
    traffic.add(**bytes_of)
    return outbox


def test_the_next_agent_counts_on(home: Home) -> None:
    first = agent(home, requests=2, sent=100, received=50, proof=7)
    once = first.total()
    assert once == {"requests": 2, "sent_bytes": 100, "received_bytes": 50, "proof_bytes": 7}
    assert first.total() == once, "asking twice counts nothing twice"
    second = agent(home, requests=1, sent=11)
    assert second.total() == {"requests": 3, "sent_bytes": 111, "received_bytes": 50, "proof_bytes": 7}
    assert agent(home).total() == second.total()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"sent_bytes": "x", "requests": -4}'])
def test_a_damaged_count_begins_anew(home: Home, data: bytes) -> None:
    home.traffic.write_bytes(data)
    assert agent(home, requests=1, sent=5).total() == {
        "requests": 1, "sent_bytes": 5, "received_bytes": 0, "proof_bytes": 0
    }  # fmt: skip
