"""Another key speaks for a ledger where more than half of all members say so, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from tapestry.errors import KeyRefused, SignatureError, UnknownMember
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.messages import Succession

NOW = "2026-05-01T12:00:00.000Z"
SOON = add_seconds(NOW, 3600)
CONSORTIUM, SIZE, ROOT = "c" * 64, 20, "d" * 64
NAMES = ("ada", "bob", "cyd", "dan")
ROOTS, NODES, WITNESSES = ({name: KeyPair.generate() for name in NAMES} for _ in range(3))
NEW = KeyPair.generate()


def ring() -> KeyRing:
    """Four members, of each a node key and a witness key."""
    found, sequence = KeyRing(), 0
    for name in NAMES:
        found = found.admit(name, ROOTS[name].public_key, sequence=sequence + 1)
        for number, (role, key) in enumerate((("node", NODES[name]), ("witness", WITNESSES[name])), 2):
            certificate = make_certificate(
                ROOTS[name],
                member=name,
                node=f"{name}-1",
                role=role,  # type: ignore[arg-type]
                public_key=key.public_key,
                not_before=NOW,
                expires=SOON,
            )
            found = found.certify(certificate, sequence=sequence + number, at=NOW)
        sequence += 3
    return found


RING = ring()


def word(name: str, *, key: KeyPair | None = None, **fields: Any) -> Envelope:
    known = {"consortium": CONSORTIUM, "member": name, "node": f"{name}-1", "core_key": NEW.public_key}
    said = Succession(**known | {"size": SIZE, "root": ROOT} | fields)
    return sign(said, key or WITNESSES[name])


def succeed(*envelopes: Envelope, of: KeyRing = RING, at: str = NOW, **other: Any) -> KeyRing:
    core_key = other.pop("core_key", NEW.public_key)
    known = {"consortium": CONSORTIUM, "size": SIZE, "root": ROOT} | other
    return of.succeed(core_key, envelopes, at=at, **known)


THREE = [word(name) for name in NAMES[:3]]


def test_most_members_are_enough() -> None:
    assert RING.core_key("founding") == "founding"
    found = succeed(*THREE)
    assert found.core_key("founding") == NEW.public_key == found.core_key("founding", SIZE + 1)
    assert found.core_key("founding", SIZE) == "founding"  # which signed for the ledger before
    assert found == KeyRing.from_json(found.to_json())
    assert succeed(*THREE, word("dan")).core_key("founding") == NEW.public_key


@pytest.mark.parametrize(
    "names", [(), ("ada",), ("ada", "bob"), ("ada", "bob", "bob"), ("ada", "ada", "ada", "bob")]
)
def test_half_of_them_are_too_few_however_often_they_sign(names: tuple[str, ...]) -> None:
    count = len(set(names))
    with pytest.raises(KeyRefused, match=f"{count} of 4 members"):
        succeed(*(word(name) for name in names))
    more = [word(name) for name in {*names, *NAMES[:3]}]
    succeed(*more)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (word("cyd", key=NODES["cyd"]), KeyRefused),
        (word("cyd", key=ROOTS["cyd"]), KeyRefused),
        (word("cyd", key=WITNESSES["ada"]), KeyRefused),
        (word("cyd", key=KeyPair.generate()), UnknownMember),
        (word("cyd", node="cyd-2"), KeyRefused),
        (word("cyd", core_key=KeyPair.generate().public_key), SignatureError),
        (word("cyd", size=SIZE + 1), SignatureError),
        (word("cyd", root="e" * 64), SignatureError),
        (word("cyd", consortium="e" * 64), SignatureError),
    ],
    ids=["node", "root", "anothers", "unknown", "other-node", "core-key", "size", "tree", "consortium"],
)
def test_a_word_that_does_not_count_counts_not(bad: Envelope, error: type[Exception]) -> None:
    with pytest.raises(error):
        succeed(word("ada"), word("bob"), bad)
    succeed(word("ada"), word("bob"), word("cyd"))


def test_a_revoked_key_says_nothing_any_more() -> None:
    revocation = make_revocation(
        ROOTS["cyd"], member="cyd", revoked=WITNESSES["cyd"].key_id, reason="compromised"
    )
    without = RING.revoke(revocation, sequence=15)
    with pytest.raises(KeyRefused, match="revoked"):
        succeed(*THREE, of=without)
    succeed(word("ada"), word("bob"), word("dan"), of=without)


def test_an_expired_key_says_nothing_any_more() -> None:
    with pytest.raises(KeyRefused, match="expired"):
        succeed(*THREE, at=SOON)


@pytest.mark.parametrize("used", [ROOTS["ada"], NODES["ada"], WITNESSES["dan"]])
def test_a_key_that_has_another_purpose(used: KeyPair) -> None:
    words = [word(name, core_key=used.public_key) for name in NAMES]
    with pytest.raises(KeyRefused, match="used before"):
        succeed(*words, core_key=used.public_key)


def test_it_can_be_succeeded_again() -> None:
    third = KeyPair.generate()
    again = [word(name, core_key=third.public_key, size=30) for name in NAMES[1:]]
    found = succeed(*again, of=succeed(*THREE), core_key=third.public_key, size=30)
    assert found.core_key("founding") == third.public_key
