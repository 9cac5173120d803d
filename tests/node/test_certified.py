"""Whose word a list of datasets or models is, by the node's own copy of the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.audit import file
from tapestry.errors import IntegrityError, SettingsError, SignatureError
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair
from tapestry.node import certified, derivatives, setup
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.node.people import holders
from tapestry.node.replica import Replica
from tapestry.transport.client import CoreClient
from tests.core.support import CoreUnderTest, as_json
from tests.core.test_derivatives import publish, record
from tests.node.conftest import MakeNode


def read_ledger(home: Home) -> int:
    """Have a copy of all there is; how many entries."""
    with setup.connect(home) as client:
        replica = Replica(home, client, setup.load_consortium(home))
        replica.follow(1)
        replica.keep()
        return replica.kept


def names(home: Home) -> list[tuple[str, str]]:
    return [(each.member, each.derivative) for each in derivatives.listed(home).records]


def test_who_came_after_the_copy_is_known(core: CoreUnderTest, make_node: MakeNode) -> None:
    home = make_node("ada").home
    bob = core.member("bob")
    assert publish(bob, record(bob)).is_success
    assert names(home) == [("bob", "letters")], "by the core's word: there is no copy yet"
    size = read_ledger(home)
    cyd = core.member("cyd")
    assert publish(cyd, record(cyd)).is_success
    assert names(home) == [("bob", "letters"), ("cyd", "letters")]
    assert Kept.of(home).verified.entries == size, "what was looked up is kept nowhere"


@pytest.mark.parametrize("copy", [True, False])
def test_a_key_that_the_core_made_up_counts_for_nothing(
    core: CoreUnderTest, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    """The control: a node without a copy of the ledger believes it."""
    home, bob, key = make_node("ada").home, core.member("bob"), KeyPair.generate()
    said = record(bob, "made-up")
    forged: Any = as_json(sign(said.unverified(derivatives.DerivativeRecord), key))
    told: Any = bob.ask("GET", "/v1/members").json()
    of_bob = next(each for each in told["members"] if each["member"] == "bob")
    held = next(each for each in of_bob["keys"] if each["role"] == "node")
    of_bob["keys"].append({**held, "key_id": key.key_id, "public_key": key.public_key})
    assert holders(told)[key.key_id].member == "bob"
    monkeypatch.setattr(CoreClient, "members", lambda _: told)
    monkeypatch.setattr(CoreClient, "derivatives", lambda _: [forged])
    if not copy:
        assert names(home) == [("bob", "made-up")]
        return
    read_ledger(home)
    with pytest.raises(SignatureError, match="a key that no member has certified"):
        names(home)
    with setup.connect(home) as client:
        found = certified.certified(home, client, {Envelope.from_json(as_json(said)).signatures[0].keyid})
    assert {each.member for each in found.values()} == {"ada", "bob"}


def test_a_core_that_never_comes_to_a_head_is_refused(
    core: CoreUnderTest, make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_node("ada").home
    read_ledger(home)
    bob = core.member("bob")
    assert publish(bob, record(bob)).is_success
    monkeypatch.setattr(CoreClient, "ledger", lambda _, after: file.FIRST if after == 0 else b"")
    with pytest.raises(IntegrityError, match="no head of its ledger"):
        names(home)


def test_a_copy_that_cannot_be_read_is_said(make_node: MakeNode) -> None:
    home = make_node("ada").home
    read_ledger(home)
    (home.ledger / "roots").unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        names(home)
