"""Commit, then reveal, over HTTP with the real replay worker."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tapestry.identity.envelope import Envelope
from tapestry.identity.keyring import make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.messages import Receipt
from tapestry.protocol.plan import Plan
from tests.core.support import CoreUnderTest, Member, artifact, as_json, code, make_plan, shards


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(tmp_path / "made", total=2, min_nodes=2, quorum=2, reveal_s=30.0)


def envelope(member: Member, plan: Plan, value: float, **other: object) -> Envelope:
    """A contribution of a delta that is nowhere but at its node."""
    delta = canonical.sha256(artifact("delta", shards(value)).to_bytes())
    return member.contribution(plan, delta, **other)


def committed(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"committed"}
    return int(answer.json()["committed"])


def test_words_first_then_bytes(serving: CoreUnderTest, plan: Plan, tmp_path: Path) -> None:
    ada, bob = serving.running(plan, tmp_path / "made", "ada", "bob")
    of_ada, of_bob = envelope(ada, plan, 0.5), envelope(bob, plan, 0.25)
    first = committed(ada.contribute(of_ada))
    assert committed(ada.contribute(of_ada)) >= first, "it may come twice"
    assert ada.view().current.nodes[0].status == "committed"  # type: ignore[union-attr]
    another = envelope(ada, plan, 0.125)
    assert code(ada.contribute(another)) == "conflict"
    committed(bob.contribute(of_bob))
    assert ada.view().current.phase == "revealing"  # type: ignore[union-attr]
    lacking = ada.contribute(of_ada)
    assert lacking.status_code == 409 and lacking.json()["missing"]
    for member, given, value in ((ada, of_ada, 0.5), (bob, of_bob, 0.25)):
        member.send_delta(value)
        answer = member.contribute(given)
        receipt = Envelope.from_bytes(answer.content).open_as(Receipt, member.core_key())
        assert receipt.contribution == given.digest
        assert member.contribute(given).content == answer.content, "the same receipt for the same envelope"
    view = ada.wait(lambda v: v.head.merges == 1)
    verifier = ada.ledger()
    assert verifier.found.contributions == 2 and verifier.state("run").head == view.head.state  # type: ignore[union-attr]


def test_a_key_that_changes_in_between_leaves_the_word_valid(
    serving: CoreUnderTest, plan: Plan, tmp_path: Path
) -> None:
    ada, bob = serving.running(plan, tmp_path / "made", "ada", "bob")
    of_ada, of_bob = envelope(ada, plan, 0.5), envelope(bob, plan, 0.25)
    for member, given in ((ada, of_ada), (bob, of_bob)):
        committed(member.contribute(given))
    old, new = ada.key, KeyPair.generate()
    ended = make_revocation(ada.root, member="ada", revoked=old.key_id, reason="rotated")
    for kind, signed, key in (("certificate", ada.certificate(new), old), ("revocation", ended, new)):
        ada.key = key
        assert ada.ask("POST", "/v1/keys", canonical.encode({kind: as_json(signed)})).is_success
    for member, given, value in ((ada, of_ada, 0.5), (bob, of_bob, 0.25)):
        member.send_delta(value)
        assert member.contribute(given).is_success
    ada.wait(lambda v: v.head.merges == 1)
    # The control: the old key signs nothing new.
    state = ada.view().head.state
    ada.key = old
    late = envelope(ada, plan, 0.5, round=2, state=state)
    ada.key = new
    assert code(ada.contribute(late)) == "key"


def test_who_never_reveals_is_done_without(serving: CoreUnderTest, tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "made", total=2, min_nodes=2, quorum=1, reveal_s=0.5)
    ada, bob = serving.running(plan, tmp_path / "made", "ada", "bob")
    of_ada, of_bob = envelope(ada, plan, 0.5), envelope(bob, plan, 0.25)
    for member, given in ((ada, of_ada), (bob, of_bob)):
        committed(member.contribute(given))
    ada.send_delta(0.5)
    assert ada.contribute(of_ada).is_success
    view = ada.wait(lambda v: v.head.merges == 1)
    assert code(bob.contribute(of_bob)) == "refused"
    assert [m["node"] for m in ada.ask("GET", "/v1/runs/run/rounds/1").json()["merged"]] == ["ada-1"]
    assert bob.view().head.state == view.head.state
