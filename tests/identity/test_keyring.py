"""The ring: who may sign what, when, and from which position of the ledger on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import (
    AuthError,
    Conflict,
    FormatError,
    KeyRefused,
    NotFound,
    SignatureError,
    TapestryError,
    UnknownMember,
)
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.invitations import open_join
from tapestry.identity.keyring import (
    KeyRing,
    Role,
    Signer,
    make_certificate,
    make_join,
    make_revocation,
)
from tapestry.identity.keys import KeyPair
from tapestry.protocol.clock import add_seconds
from tapestry.protocol.messages import Contribution, Enrolment, Join, Progress

NOW = "2026-05-01T12:00:00.000Z"
SOON = add_seconds(NOW, 3600)
CONSORTIUM = "c" * 64
ROOT, NODE, OTHER_ROOT, OTHER_NODE = (KeyPair.generate() for _ in range(4))


def certificate(root: KeyPair = ROOT, key: KeyPair = NODE, **fields: Any) -> Envelope:
    given = {
        "member": "alpha",
        "node": "alpha-1",
        "role": "node",
        "public_key": key.public_key,
        "not_before": NOW,
        "expires": SOON,
        **fields,
    }
    return make_certificate(root, **given)


def ring() -> KeyRing:
    """alpha admitted at 1 and its node certified at 2; beta at 3 and 4."""
    return (
        KeyRing()
        .admit("alpha", ROOT.public_key, sequence=1)
        .certify(certificate(), sequence=2, at=NOW)
        .admit("beta", OTHER_ROOT.public_key, sequence=3)
        .certify(certificate(OTHER_ROOT, OTHER_NODE, member="beta", node="beta-1"), sequence=4, at=NOW)
    )


RING = ring()


def enrolment(**fields: Any) -> Enrolment:
    return Enrolment(
        **{
            "consortium": CONSORTIUM,
            "run": "r",
            "plan": "a" * 64,
            "member": "alpha",
            "node": "alpha-1",
            **fields,
        }
    )


SIGNED = sign(enrolment(), NODE)


def test_a_certified_key_speaks_for_its_node() -> None:
    message, signer = RING.verify(SIGNED, Enrolment, at=NOW)
    assert message == enrolment()
    assert signer == Signer("alpha", "alpha-1", "node", NODE.key_id)
    progress = Progress(round=1, step=0, steps=1)  # names nobody
    assert RING.verify(sign(progress, NODE), Progress, at=NOW)[0] == progress


def test_a_key_is_valid_from_its_certificate_to_its_revocation_in_the_ledger() -> None:
    revoked = RING.revoke(
        make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="rotated"), sequence=7
    )
    for sequence in (3, 6, 7):
        assert revoked.verify(SIGNED, Enrolment, at=NOW, sequence=sequence)[0] == enrolment()
    for sequence, reason in (
        (1, "not certified yet"),
        (2, "not certified yet"),
        (8, "revoked"),
        (None, "revoked"),
    ):
        with pytest.raises(KeyRefused, match=reason) as raised:
            revoked.verify(SIGNED, Enrolment, at=NOW, sequence=sequence)
        assert raised.value.hint
    assert RING.verify(SIGNED, Enrolment, at=NOW, sequence=8)[0] == enrolment()  # the old ring is untouched


@pytest.mark.parametrize(
    ("at", "refused"),
    [
        (add_seconds(NOW, -0.001), "valid from"),
        (NOW, None),
        (add_seconds(SOON, -0.001), None),
        (SOON, "expired"),
        ("2099-01-01T00:00:00.000Z", "expired"),
    ],
)
def test_a_key_is_valid_between_its_dates(at: str, refused: str | None) -> None:
    if refused is None:
        RING.verify(SIGNED, Enrolment, at=at)
    else:
        with pytest.raises(KeyRefused, match=refused) as raised:
            RING.verify(SIGNED, Enrolment, at=at)
        assert raised.value.hint


@pytest.mark.parametrize("role", ["witness", "vote", "release"])
def test_roles_are_kept_apart(role: Role) -> None:
    key = KeyPair.generate()
    node = None if role == "vote" else "alpha-1"
    with_key = RING.certify(certificate(key=key, role=role, node=node), sequence=5, at=NOW)
    envelope = sign(enrolment(), key)
    with pytest.raises(KeyRefused, match=f"{role} key") as raised:
        with_key.verify(envelope, Enrolment, at=NOW)
    assert "role is node" in str(raised.value.hint)
    signer = with_key.verify(envelope, Enrolment, at=NOW, roles=frozenset({role}))[1]
    assert (signer.role, signer.node) == (role, node)
    with pytest.raises(KeyRefused, match="node key"):
        with_key.verify(SIGNED, Enrolment, at=NOW, roles=frozenset({role}))


@pytest.mark.parametrize(
    "fields", [{"member": "beta"}, {"node": "alpha-2"}, {"member": "beta", "node": "beta-1"}]
)
def test_a_key_speaks_for_no_other_node_or_member(fields: dict[str, str]) -> None:
    with pytest.raises(KeyRefused, match="signed by a key of"):
        RING.verify(sign(enrolment(**fields), NODE), Enrolment, at=NOW)


def test_unknown_keys_root_keys_and_bad_signatures() -> None:
    with pytest.raises(UnknownMember) as unknown:
        RING.verify(sign(enrolment(), KeyPair.generate()), Enrolment, at=NOW)
    assert "join" in str(unknown.value.hint)
    with pytest.raises(KeyRefused, match="root key"):
        RING.verify(sign(enrolment(), ROOT), Enrolment, at=NOW)
    with pytest.raises(FormatError, match="one signature"):
        RING.verify(SIGNED.add_signature(OTHER_NODE), Enrolment, at=NOW)
    forged = json.loads(sign(enrolment(), OTHER_NODE).to_bytes())
    forged["signatures"][0]["keyid"] = NODE.key_id
    with pytest.raises(SignatureError):
        RING.verify(Envelope.from_json(forged), Enrolment, at=NOW)
    with pytest.raises(FormatError):
        RING.verify(SIGNED, Contribution, at=NOW)


def test_a_revoked_keys_state_is_told_to_its_holder_only() -> None:
    revoked = RING.revoke(
        make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="retired"), sequence=7
    )
    forged = json.loads(SIGNED.to_bytes())
    forged["payload"] = forged["payload"][:-4] + "AAAA"
    with pytest.raises(SignatureError):
        revoked.verify(Envelope.from_json(forged), Enrolment, at=NOW)


def test_admission() -> None:
    assert RING.admit("alpha", ROOT.public_key, sequence=9) is RING
    with pytest.raises(Conflict, match="alpha"):
        RING.admit("alpha", KeyPair.generate().public_key, sequence=9)
    for used in (ROOT, NODE):
        with pytest.raises(KeyRefused, match="used before"):
            RING.admit("gamma", used.public_key, sequence=9)


def test_certificates_are_idempotent_and_rotation_overlaps() -> None:
    assert RING.certify(certificate(), sequence=9, at="2030-01-01T00:00:00.000Z") is RING
    new = KeyPair.generate()
    rotated = RING.certify(certificate(key=new), sequence=9, at=NOW)
    for key in (NODE, new):
        assert rotated.verify(sign(enrolment(), key), Enrolment, at=NOW)[1].key_id == key.key_id
    gone = rotated.revoke(
        make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="rotated"), sequence=10
    )
    with pytest.raises(KeyRefused):
        gone.verify(SIGNED, Enrolment, at=NOW)
    assert gone.verify(sign(enrolment(), new), Enrolment, at=NOW)[0] == enrolment()
    with pytest.raises(KeyRefused, match="used before"):  # a revoked key never comes back
        gone.certify(certificate(expires=add_seconds(SOON, 1)), sequence=11, at=NOW)


@pytest.mark.parametrize(
    ("envelope", "error", "reason"),
    [
        (certificate(KeyPair.generate(), KeyPair.generate()), UnknownMember, "root key"),
        (certificate(NODE, KeyPair.generate()), UnknownMember, "root key"),
        (certificate(OTHER_ROOT, KeyPair.generate()), KeyRefused, "signed by the root key of beta"),
        (certificate(key=OTHER_NODE), KeyRefused, "used before"),
        (certificate(key=ROOT), KeyRefused, "used before"),
        (certificate(key=OTHER_ROOT), KeyRefused, "used before"),
        (certificate(key=KeyPair.generate(), node="beta-1"), Conflict, "belongs to member beta"),
        (certificate(key=KeyPair.generate(), node=None), KeyRefused, "names no node"),
        (certificate(key=KeyPair.generate(), expires=NOW), KeyRefused, "before it is valid"),
        (
            certificate(key=KeyPair.generate(), not_before=add_seconds(NOW, -9), expires=NOW),
            KeyRefused,
            "expired at",
        ),
        (
            certificate(key=KeyPair.generate(), expires="2026-13-01T00:00:00.000Z"),
            FormatError,
            "not a time",
        ),
        (certificate(key=KeyPair.generate()).add_signature(OTHER_ROOT), FormatError, "one signature"),
        (
            make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="rotated"),
            FormatError,
            "expected",
        ),
    ],
)
def test_certificates_that_are_refused(envelope: Envelope, error: type[AuthError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        RING.certify(envelope, sequence=9, at=NOW)


def test_revocations() -> None:
    revocation = make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="compromised")
    revoked = RING.revoke(revocation, sequence=9)
    assert revoked.keys[NODE.key_id].revoked == 9
    assert revoked.revoke(revocation, sequence=12) is revoked
    for root, fields, error in (
        (OTHER_ROOT, {}, KeyRefused),
        (OTHER_ROOT, {"member": "beta"}, NotFound),
        (ROOT, {"revoked": "0" * 64}, NotFound),
        (NODE, {}, UnknownMember),
    ):
        arguments: Any = {"member": "alpha", "revoked": NODE.key_id, "reason": "retired", **fields}
        with pytest.raises(error):
            RING.revoke(make_revocation(root, **arguments), sequence=9)


def test_a_ring_survives_a_snapshot() -> None:
    revoked = RING.revoke(
        make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="rotated"), sequence=9
    )
    for state in (KeyRing(), RING, revoked):
        assert KeyRing.from_json(json.loads(json.dumps(state.to_json()))) == state
    for wrong in (None, {}, {"members": {}, "keys": {"x": 1}}, {**RING.to_json(), "more": 1}):
        if wrong == {}:
            assert KeyRing.from_json(wrong) == KeyRing()
            continue
        with pytest.raises(FormatError):
            KeyRing.from_json(wrong)


def test_joining() -> None:
    root = KeyPair.generate()
    envelope = make_join(root, consortium=CONSORTIUM, invitation="i" * 43, member="gamma")
    join = open_join(Envelope.from_bytes(envelope.to_bytes()), CONSORTIUM)
    assert (join.member, join.root_key, join.invitation) == ("gamma", root.public_key, "i" * 43)
    assert "gamma" in RING.admit(join.member, join.root_key, sequence=9).members
    with pytest.raises(SignatureError, match="for consortium"):
        open_join(envelope, "d" * 64)
    with pytest.raises(SignatureError):  # somebody else's root key
        open_join(sign(join, ROOT), CONSORTIUM)
    with pytest.raises(SignatureError):
        open_join(envelope.add_signature(ROOT), CONSORTIUM)
    with pytest.raises(FormatError):
        open_join(sign(enrolment(), root), CONSORTIUM)
    with pytest.raises(SignatureError):
        open_join(
            sign(Join.model_validate({**join.model_dump(), "root_key": ROOT.public_key}), root), CONSORTIUM
        )


JOIN = make_join(ROOT, consortium=CONSORTIUM, invitation="i" * 43, member="gamma").to_bytes()


@given(st.integers(0, len(JOIN) - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_join_is_refused(position: int, change: int) -> None:
    bad = bytearray(JOIN)
    bad[position] ^= change
    with pytest.raises(TapestryError):
        open_join(Envelope.from_bytes(bytes(bad)), CONSORTIUM)


KEYS = [KeyPair.generate() for _ in range(4)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["certify", "revoke"]), st.integers(0, 3)), max_size=12))
def test_verdicts_about_the_past_never_change(steps: list[tuple[str, int]]) -> None:
    """Whatever happens later: what a key may do at a position is settled once that position is past."""
    state = KeyRing().admit("alpha", ROOT.public_key, sequence=1)
    settled: dict[tuple[int, int], bool] = {}
    for sequence, (step, i) in enumerate(steps, start=2):
        try:
            if step == "certify":
                state = state.certify(certificate(key=KEYS[i]), sequence=sequence, at=NOW)
            else:
                revocation = make_revocation(ROOT, member="alpha", revoked=KEYS[i].key_id, reason="retired")
                state = state.revoke(revocation, sequence=sequence)
        except NotFound:
            pass
        for j, key in enumerate(KEYS):
            for position in range(2, sequence + 1):
                try:
                    state.verify(sign(enrolment(), key), Enrolment, at=NOW, sequence=position)
                    verdict = True
                except AuthError:
                    verdict = False
                assert settled.setdefault((j, position), verdict) == verdict
