"""Proofs of requests: for this request, from this node, now."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.errors import FormatError, KeyRefused, SignatureError, TapestryError, TooLarge, UnknownMember
from tapestry.identity.keyring import KeyRing, make_certificate, make_revocation
from tapestry.identity.keys import KeyPair
from tapestry.identity.requests import MAX_HEADER_BYTES, check_proof, make_proof
from tapestry.protocol.canonical import sha256
from tapestry.protocol.clock import add_seconds

NOW = "2026-05-01T12:00:00.000Z"
ROOT, NODE = KeyPair.generate(), KeyPair.generate()
RING = (
    KeyRing()
    .admit("alpha", ROOT.public_key, sequence=1)
    .certify(
        make_certificate(
            ROOT,
            member="alpha",
            node="alpha-1",
            role="node",
            public_key=NODE.public_key,
            not_before="2026-01-01T00:00:00.000Z",
            expires="2027-01-01T00:00:00.000Z",
        ),
        sequence=2,
        at=NOW,
    )
)
REQUEST: dict[str, Any] = {
    "consortium": "c" * 64,
    "method": "PUT",
    "target": "/v1/blobs/" + "a" * 64 + "?bytes=9&offset=0",
    "body_sha": sha256(b"body"),
}
HEADER = make_proof(NODE, **REQUEST, at=NOW)


def test_a_good_proof_names_the_node() -> None:
    signer = check_proof(HEADER, RING, **REQUEST, now=NOW)
    assert (signer.member, signer.node, signer.key_id) == ("alpha", "alpha-1", NODE.key_id)
    assert HEADER.isascii() and HEADER.startswith("Tapestry ") and "=" not in HEADER


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consortium", "d" * 64),
        ("method", "POST"),
        ("target", REQUEST["target"] + "0"),
        ("body_sha", sha256(b"other")),
    ],
)
def test_another_request_is_refused(field: str, value: str) -> None:
    with pytest.raises(SignatureError, match=field.removesuffix("_sha")):
        check_proof(HEADER, RING, **{**REQUEST, field: value}, now=NOW)


@pytest.mark.parametrize(("offset", "good"), [(-300, True), (300, True), (-300.001, False), (300.001, False)])
def test_the_window_is_five_minutes_both_ways(offset: float, good: bool) -> None:
    now = add_seconds(NOW, offset)
    if good:
        check_proof(HEADER, RING, **REQUEST, now=now)
    else:
        with pytest.raises(SignatureError, match="signed for") as raised:
            check_proof(HEADER, RING, **REQUEST, now=now)
        assert "Tapestry-Time" in str(raised.value.hint)


def test_the_key_must_be_known_and_valid_by_the_cores_clock() -> None:
    with pytest.raises(UnknownMember):
        check_proof(make_proof(KeyPair.generate(), **REQUEST, at=NOW), RING, **REQUEST, now=NOW)
    with pytest.raises(KeyRefused, match="expired"):
        check_proof(HEADER, RING, **REQUEST, now="2028-01-01T00:00:00.000Z")
    revocation = make_revocation(ROOT, member="alpha", revoked=NODE.key_id, reason="compromised")
    with pytest.raises(KeyRefused, match="revoked"):
        check_proof(HEADER, RING.revoke(revocation, sequence=3), **REQUEST, now=NOW)
    with pytest.raises(KeyRefused, match="node key"):
        check_proof(HEADER, RING, **REQUEST, now=NOW, roles=frozenset({"witness"}))


TOKEN = HEADER.removeprefix("Tapestry ")


@settings(max_examples=200)
@given(st.integers(0, len(HEADER) - 1), st.characters(max_codepoint=0x17F))
def test_any_changed_character_is_refused(position: int, character: str) -> None:
    bad = HEADER[:position] + character + HEADER[position + 1 :]
    if bad != HEADER:
        with pytest.raises(TapestryError):
            check_proof(bad, RING, **REQUEST, now=NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Tapestry",
        "Tapestry ",
        f"Bearer {TOKEN}",
        f"tapestry {TOKEN}",
        f"Tapestry  {TOKEN}",
        f"Tapestry {TOKEN} ",
        f"Tapestry {TOKEN}==",
        "Tapestry A",
        "Tapestry e30",
        "Tapestry \ud800",
        "Tapestry " + base64.b64encode(b"\xfb\xff").decode().rstrip("="),
    ],
)
def test_another_form_is_refused(header: str) -> None:
    with pytest.raises(FormatError):
        check_proof(header, RING, **REQUEST, now=NOW)


def test_the_header_is_bounded_on_both_sides() -> None:
    with pytest.raises(TooLarge):
        check_proof("Tapestry " + "A" * MAX_HEADER_BYTES, RING, **REQUEST, now=NOW)
    long = {**REQUEST, "target": "/" + "x" * 1700}
    header = make_proof(NODE, **long, at=NOW)
    assert len(header) <= MAX_HEADER_BYTES
    check_proof(header, RING, **long, now=NOW)
    with pytest.raises(TooLarge):
        make_proof(NODE, **{**REQUEST, "target": "/" + "x" * 2047}, at=NOW)


@pytest.mark.parametrize(
    "fields", [{"method": "DELETE"}, {"target": "x" * 2049}, {"consortium": "C"}, {"body_sha": ""}]
)
def test_what_no_proof_can_state(fields: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        make_proof(NODE, **{**REQUEST, **fields}, at=NOW)
