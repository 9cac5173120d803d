"""A node takes leave in the middle of a round: with a whole bundle, and the round goes on without it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tapestry.bundle import check
from tapestry.core import operator
from tapestry.core.service import Core
from tapestry.errors import BundleError, Busy, Conflict, Incomplete, KeyRefused, Unreachable
from tapestry.host import files
from tapestry.ledger.entries import Entry
from tapestry.node import leave as leaving
from tapestry.node import setup
from tapestry.transport.client import CoreClient
from tests.bundle.worlds import give_data
from tests.core.support import CoreUnderTest, make_plan, shards
from tests.node import support
from tests.node.conftest import MakeNode
from tests.node.support import NodeUnderTest, wait_until


def events(core: CoreUnderTest) -> list[tuple[str, dict[str, Any]]]:
    """All of the core's log."""
    with Core.open(core.root) as opened:
        batch, _ = opened.journal.entries(0, limit=10_000, max_bytes=64 << 20)
    return [(entry.type, entry.body) for entry in map(Entry.from_bytes, batch)]


@pytest.fixture
def two(
    core: CoreUnderTest, make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[NodeUnderTest, NodeUnderTest]:
    """A run in whose second round one node has stopped, and the other waits for it, for an hour at most."""
    plan = make_plan(tmp_path / "seed", total=3, min_nodes=2, quorum=1, deadline_s=3600.0)
    operator.plan(core.root, plan, tmp_path / "seed")
    operator.start(core.root, plan.run)
    stays, goes = make_node("fr"), make_node("de")
    monkeypatch.setattr(support, "EMPTY", give_data(goes.home, tmp_path / "words"))
    asked, let_go = threading.Event(), threading.Event()

    def train(job: Any) -> list[bytes]:
        if job.round > 1:
            asked.set()
            let_go.wait()
        return shards(2.0)

    stays.start(1.0)
    goes.start(2.0, once=False, make=train)
    assert asked.wait(120), goes.log()
    for process in goes.processes.values():
        process.terminate()
        process.wait(20)
    let_go.set()
    wait_until(lambda: _submitted(core) == {"fr-1"}, what=stays.log())
    return stays, goes


def _submitted(core: CoreUnderTest) -> set[str]:
    current = operator.view(core.root, "run").current
    if current is None or current.round != 2:
        return set()
    return {node.node for node in current.nodes if node.status == "accepted"}


def keys_are_valid(node: NodeUnderTest) -> None:
    with setup.connect(node.home) as client:
        client.members()


def test_a_round_goes_on_without_who_left(
    core: CoreUnderTest,
    two: tuple[NodeUnderTest, NodeUnderTest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stays, goes = two
    home, out = goes.home.root, tmp_path / "bundle"
    with files.Lock(home), pytest.raises(Busy):
        leaving.leave(home, out, goes.member_dir)

    manifests = goes.home.cache / "manifests"
    manifests.rename(tmp_path / "aside")
    with pytest.raises(Incomplete, match="manifests/"):
        leaving.leave(home, tmp_path / "first", goes.member_dir)
    (tmp_path / "aside").rename(manifests)
    keys_are_valid(goes)

    assert leaving.leave(home, out, None).keys == "valid"  # the root key is elsewhere
    keys_are_valid(goes)
    ledger = (out / "ledger.jsonl").read_bytes()
    (out / "ledger.jsonl").write_bytes(ledger.replace(b"Test", b"Rest", 1))
    with pytest.raises(BundleError):
        leaving.leave(home, out, goes.member_dir)
    keys_are_valid(goes)
    (out / "ledger.jsonl").write_bytes(ledger)

    first, post = [], CoreClient.post_revocation

    def cut_short(client: CoreClient, value: Any) -> Any:
        if first:
            raise KeyboardInterrupt
        first.append(value)
        return post(client, value)

    with monkeypatch.context() as dying:
        dying.setattr(CoreClient, "post_revocation", cut_short)
        with pytest.raises(KeyboardInterrupt):
            leaving.leave(home, out, goes.member_dir)
    keys_are_valid(goes)  # the witness key has ended, the one that asks the core has not

    left = leaving.leave(home, out, goes.member_dir)
    assert (left.keys, left.waiting) == ("revoked", ())
    assert stays.wait() == 0, stays.log()  # all three rounds, an hour before their deadline
    with setup.connect(goes.home) as client, pytest.raises(KeyRefused, match="revoked"):
        client.members()
    said = events(core)
    assert sum(kind == "key-revoked" for kind, _ in said) == 2
    assert [body["node"] for kind, body in said if kind == "node-withdrawn"] == ["de-1"]
    assert sum(kind == "round-committed" for kind, _ in said) == 3

    found = check.check(out)
    assert len(found.own) == 1
    assert not found.lacking
    assert leaving.leave(home, out, goes.member_dir).keys == "were revoked"
    with pytest.raises(Conflict, match="newest"):
        leaving.leave(stays.home.root, out, stays.member_dir)
    core.close()
    with pytest.raises(Unreachable):
        leaving.leave(stays.home.root, tmp_path / "other", stays.member_dir)
    assert not (tmp_path / "other").exists()
