"""A member, or somebody who wants to be one, that takes more than it was given: keys, names, invitations."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from typing import Any

import httpx

from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keyring import Certified, KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.messages import KeyCertificate
from tests.attacks.catalog import attack, attacks, case
from tests.attacks.support import EVE, Game, HereCore, refused
from tests.attacks.switches import Switches
from tests.core.support import Member, as_json, time_at

WHO = "a member, or who wants to be one"
Given = tuple[Any, ...]
RING = "tapestry.identity.keyring.KeyRing"
_numbers = count(1)


def post_key(member: Member, kind: str, envelope: Envelope) -> httpx.Response:
    return member.ask("POST", "/v1/keys", canonical.encode({kind: as_json(envelope)}))


def certificate(root: KeyPair, key: KeyPair, **other: Any) -> Envelope:
    fields: dict[str, Any] = {
        "member": "eve",
        "node": "eve-1",
        "role": "node",
        "public_key": key.public_key,
        "not_before": time_at(-3600),
        "expires": time_at(3600),
    }
    return make_certificate(root, **(fields | other))


def contributed(game: Game, key: KeyPair, **other: Any) -> httpx.Response:
    """Eve's request, her contribution signed by another key."""
    delta, own = game.eve.send_delta(EVE), game.eve.key
    game.eve.key = key
    envelope = game.signed(delta, **other)
    game.eve.key = own
    return game.eve.contribute(envelope, game.run)


def ring_of(core: HereCore) -> KeyRing:
    return core.core.consortium.ring()


# -- which key ----------------------------------------------------------------------------------


def _root(game: Game) -> KeyPair:
    return game.eve.root


def _witness(game: Game) -> KeyPair:
    key = KeyPair.generate()
    assert post_key(game.eve, "certificate", certificate(game.eve.root, key, role="witness")).is_success
    return key


def _revoked(game: Game) -> KeyPair:
    key = KeyPair.generate()
    assert post_key(game.eve, "certificate", certificate(game.eve.root, key)).is_success
    ended = make_revocation(game.eve.root, member="eve", revoked=key.key_id, reason="compromised")
    assert post_key(game.eve, "revocation", ended).is_success
    return key


def _early(game: Game) -> KeyPair:
    key = KeyPair.generate()
    later = certificate(game.eve.root, key, not_before=time_at(600))
    assert post_key(game.eve, "certificate", later).is_success
    return key


def _expired(game: Game) -> KeyPair:
    """Certified for so short that it is over when it is used."""
    import time

    key = KeyPair.generate()
    short = certificate(game.eve.root, key, expires=time_at(0.15))
    assert post_key(game.eve, "certificate", short).is_success
    time.sleep(0.2)
    return key


@attacks(
    case(
        "signed-with-the-root-key",
        "signs a contribution with the offline root key",
        "a root key signs certificates and revocations only",
        _root,
        ("self.keys.get(name)", "as_root"),
    ),
    case(
        "signed-with-a-witness-key",
        "signs a contribution with its witness key",
        "keys have roles",
        _witness,
        ("certificate.role not in roles", None),
    ),
    case(
        "signed-with-a-revoked-key",
        "signs with a key its member has ended",
        "a key is judged at its position",
        _revoked,
        ("_refuse_invalid", "entry.revoked is not None and (sequence is None or sequence > entry.revoked)"),
    ),
    case(
        "signed-with-an-expired-key",
        "signs with a key whose time is over",
        "by the core's clock",
        _expired,
        ("_refuse_invalid", "moment >= parse_time(certificate.expires)"),
    ),
    case(
        "signed-with-a-key-not-valid-yet",
        "signs with a key whose time is to come",
        "by the core's clock",
        _early,
        ("_refuse_invalid", "moment < parse_time(certificate.not_before)"),
    ),
)
def test_the_wrong_key(game: Game, switches: Switches, given: Given) -> None:
    make, (place, check) = given
    key = make(game)
    before = game.sequence
    refused(contributed(game, key), "key")
    assert game.sequence == before
    game.goes_on()

    def as_root(ring: KeyRing, name: str) -> Certified | None:
        own = KeyCertificate.from_bytes(
            certificate(game.eve.root, game.eve.root).unverified(KeyCertificate).to_bytes()
        )
        return Certified(certificate=own, sequence=0) if name == game.eve.root.key_id else ring.keys.get(name)

    with ExitStack() as stack:
        if check == "as_root":
            stack.enter_context(switches.check_off(f"{RING}.verify", place, as_root, given="self, name"))
        elif check is None:
            stack.enter_context(switches.check_off(f"{RING}.verify", place))
        else:
            stack.enter_context(switches.check_off(f"{RING}.{place}", check))
        answer = contributed(game, key)
        assert answer.status_code == 200, answer.text


@attack(
    "signed-with-an-unknown-key",
    tries="signs with a key that nobody has certified",
    stopped_by="only keys of the ring are known",
)
def test_an_unknown_key(game: Game, switches: Switches) -> None:
    key = KeyPair.generate()
    refused(contributed(game, key), "unknown-member")
    game.goes_on()
    made = certificate(game.eve.root, key).unverified(KeyCertificate)
    with switches.check_off(
        f"{RING}.verify",
        "self.keys.get(name)",
        lambda ring, name: ring.keys.get(name) or Certified(certificate=made, sequence=0),
        given="self, name",
    ):
        assert contributed(game, key).status_code == 200


@attack(
    "names-another-node",
    tries="signs with its own key a contribution in bob's name",
    stopped_by="a message names the member and the node whose key has signed it",
)
def test_anothers_name(game: Game, switches: Switches) -> None:
    named = {"member": "bob", "node": "bob-1"}
    refused(contributed(game, game.eve.key, **named), "key")
    game.goes_on()
    with switches.check_off(f"{RING}.verify", "own is not None and named != own"):
        assert contributed(game, game.eve.key, **named).status_code == 200
    assert game.outcome("bob-1") == ("accepted", None), "bob has contributed, and knows nothing of it"


@attack(
    "signature-altered",
    tries="changes the bytes under a good signature of bob",
    stopped_by="Ed25519, over type and payload",
)
def test_a_false_signature(game: Game, switches: Switches) -> None:
    def tried() -> httpx.Response:
        good = game.eve.contribution(game.plan, game.eve.send_delta(EVE), round=game.round, state=game.state)
        other = game.signed(game.eve.send_delta(EVE), nonce="9" * 32)
        forged = Envelope(payload=other.payload, payloadType=other.payloadType, signatures=good.signatures)
        return game.eve.contribute(forged, game.run)

    refused(tried(), "signature")
    game.goes_on()
    with switches.off("tapestry.identity.keys.verify"):
        assert tried().status_code == 200


@attack(
    "message-of-another-kind",
    tries="hands in a signed enrolment as a contribution",
    stopped_by="the payload's type is signed and must be the one due",
)
def test_another_kind(game: Game, switches: Switches) -> None:
    from tapestry.protocol.messages import Contribution, Enrolment

    enrolment = Enrolment(
        consortium=game.core.consortium, run=game.run, plan=game.plan.digest, member="eve", node="eve-1"
    )
    envelope = sign(enrolment, game.eve.key)
    refused(game.eve.contribute(envelope, game.run), "format")
    game.goes_on()
    said = game.signed(game.eve.send_delta(EVE)).unverified(Contribution)
    with (
        switches.check_off("tapestry.identity.envelope.Envelope._verify", "self.payloadType != expected"),
        switches.off("tapestry.protocol.messages.Contribution.from_bytes", lambda _: said),
    ):
        assert game.eve.contribute(envelope, game.run).status_code == 200
