"""Envelopes: DSSE as others read it, one encoding, and no byte that may change."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib import dsse
from securesystemslib.signer import CryptoSigner, SSlibKey

from tapestry.errors import FormatError, IntegrityError, SignatureError, TapestryError, TooLarge
from tapestry.identity.envelope import (
    MAX_SIGNATURES,
    Envelope,
    payload_type,
    pre_authentication,
    sign,
)
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.messages import Contribution, KeyRevocation, Progress, RequestProof

PAIR = KeyPair.generate()
OTHER = KeyPair.generate()


def message(target: str = "/v1/runs/r") -> RequestProof:
    return RequestProof(
        consortium="c" * 64, method="GET", target=target, body="b" * 64, at="2026-05-01T12:00:00.000Z"
    )


GOOD = sign(message(), PAIR).to_bytes()


def test_pae_is_that_of_the_specification() -> None:
    """The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    assert (
        pre_authentication("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pre_authentication("", b"") == b"DSSEv1 0  0 "
    assert pre_authentication("é", "é €".encode()) == "DSSEv1 2 é 6 é €".encode()


@given(st.text(max_size=20), st.binary(max_size=60))
def test_pae_is_that_of_securesystemslib(kind: str, data: bytes) -> None:
    assert pre_authentication(kind, data) == dsse.Envelope(data, kind, {}).pae()


@settings(max_examples=25)
@given(st.text(max_size=200))
def test_what_was_signed_comes_out(target: str) -> None:
    envelope = Envelope.from_bytes(sign(message(target), PAIR).to_bytes())
    assert envelope.open_as(RequestProof, PAIR.public_key) == message(target)
    assert envelope.digest == canonical.sha256(envelope.to_bytes())
    assert envelope.payloadType == "application/vnd.tapestry.request+json"


def test_payload_types_name_the_format() -> None:
    assert payload_type(Contribution) == "application/vnd.tapestry.contribution+json"
    assert payload_type(KeyRevocation) == "application/vnd.tapestry.key-revocation+json"


def test_securesystemslib_reads_ours_and_we_read_its() -> None:
    scheme = {"keytype": "ed25519", "scheme": "ed25519"}
    theirs = dsse.Envelope.from_dict(json.loads(GOOD))
    key = SSlibKey(PAIR.key_id, **scheme, keyval={"public": PAIR.public_key})
    assert theirs.verify([key], 1) == {PAIR.key_id: key}
    assert canonical.encode(theirs.to_dict()) == GOOD

    signer = CryptoSigner.generate_ed25519()
    public = signer.public_key.keyval["public"]
    signer.public_key.keyid = canonical.sha256(bytes.fromhex(public))
    made = dsse.Envelope(message().to_bytes(), payload_type(RequestProof), {})
    made.sign(signer)
    ours = Envelope.from_bytes(canonical.encode(made.to_dict()))
    assert ours.open_as(RequestProof, public) == message()


@settings(max_examples=400)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(position: int, change: int) -> None:
    bad = bytearray(GOOD)
    bad[position] ^= change
    with pytest.raises(TapestryError):
        Envelope.from_bytes(bytes(bad)).open_as(RequestProof, PAIR.public_key)


@given(st.integers(0, len(GOOD)), st.binary(min_size=1, max_size=4), st.integers(0, 4))
def test_any_inserted_or_missing_byte_is_refused(position: int, inserted: bytes, removed: int) -> None:
    bad = GOOD[:position] + inserted + GOOD[position + removed :]
    if bad == GOOD:
        return
    with pytest.raises(TapestryError):
        Envelope.from_bytes(bad).open_as(RequestProof, PAIR.public_key)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        Envelope.from_bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 50), 1 << 50) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["payload", "payloadType", "signatures", "more"]), json_values)
def test_any_wrong_field_is_refused(field: str, value: Any) -> None:
    changed = {**json.loads(GOOD), field: value}
    with pytest.raises(TapestryError):
        Envelope.from_json(changed).open_as(RequestProof, PAIR.public_key)


def changed(**fields: Any) -> dict[str, Any]:
    return {**json.loads(GOOD), **fields}


def signature(**fields: Any) -> dict[str, Any]:
    return {**json.loads(GOOD)["signatures"][0], **fields}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        changed(more=1),
        changed(payload="eyJ9"[:3]),
        changed(payload="e30\n"),
        changed(payload="e31="),  # the unused bits are not zero
        changed(payload="_-8="),  # url alphabet
        changed(payload="é"),
        changed(payloadType="application/json"),
        changed(payloadType="application/vnd.Tapestry+json"),
        changed(signatures=[]),
        changed(signatures=[signature()] * 2),
        changed(signatures=[signature(keyid=f"{i:064x}") for i in range(MAX_SIGNATURES + 1)]),
        changed(signatures=[signature(keyid="1" * 64), signature(keyid="0" * 64)]),
        changed(signatures=[signature(keyid="A" * 64)]),
        changed(signatures=[signature(sig=base64.b64encode(b"x" * 63).decode())]),
        changed(signatures=[signature(cert="x")]),
    ],
)
def test_another_form_is_refused(value: Any) -> None:
    with pytest.raises(FormatError):
        Envelope.from_json(value)


def test_size_is_bounded_before_anything_is_parsed() -> None:
    with pytest.raises(TooLarge):
        Envelope.from_bytes(b"[" * (Envelope.MAX_BYTES + 1))


def test_only_canonical_bytes() -> None:
    with pytest.raises(FormatError, match="canonical"):
        Envelope.from_bytes(json.dumps(json.loads(GOOD)).encode())


def raw(payload: bytes, kind: str = "application/vnd.tapestry.request+json") -> Envelope:
    text = base64.b64encode(payload).decode()
    sig = base64.b64encode(PAIR.sign(pre_authentication(kind, payload))).decode()
    return Envelope.from_json(
        {"payload": text, "payloadType": kind, "signatures": [{"keyid": PAIR.key_id, "sig": sig}]}
    )


def test_nothing_is_parsed_before_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(data: bytes) -> RequestProof:
        raise AssertionError("parsed")

    monkeypatch.setattr(RequestProof, "from_bytes", parsed)
    with pytest.raises(SignatureError):
        Envelope.from_bytes(GOOD).open_as(RequestProof, OTHER.public_key)
    with pytest.raises(AssertionError, match="parsed"):
        Envelope.from_bytes(GOOD).open_as(RequestProof, PAIR.public_key)


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"[" * 9000, GOOD])
def test_a_signed_payload_that_is_no_message_is_a_format_error(payload: bytes) -> None:
    with pytest.raises(FormatError):
        raw(payload).open_as(RequestProof, PAIR.public_key)


def test_a_message_of_another_kind_is_refused_by_type_and_by_content() -> None:
    envelope = Envelope.from_bytes(GOOD)
    with pytest.raises(FormatError, match=r"tapestry\.progress"):
        envelope.open_as(Progress, PAIR.public_key)
    relabelled = changed(payloadType="application/vnd.tapestry.progress+json")
    with pytest.raises(SignatureError):
        Envelope.from_json(relabelled).open_as(Progress, PAIR.public_key)
    signed_as_another = raw(message().to_bytes(), "application/vnd.tapestry.progress+json")
    with pytest.raises(FormatError, match="got an envelope of"):
        signed_as_another.open_as(RequestProof, PAIR.public_key)
    with pytest.raises(FormatError):
        raw(Progress(round=1, step=0, steps=1).to_bytes()).open_as(RequestProof, PAIR.public_key)


def test_several_signatures_must_all_be_good() -> None:
    both = sign(message(), PAIR).add_signature(OTHER)
    assert both.to_bytes() == sign(message(), OTHER).add_signature(PAIR).to_bytes()
    both = Envelope.from_bytes(both.to_bytes())
    known = {pair.key_id: pair.public_key for pair in (PAIR, OTHER)}
    assert both.open_as(RequestProof, known.get) == message()
    with pytest.raises(SignatureError, match="not known"):
        both.open_as(RequestProof, PAIR.public_key)
    forged = json.loads(both.to_bytes())
    forged["signatures"][1]["sig"] = forged["signatures"][0]["sig"]
    with pytest.raises(SignatureError, match="does not verify"):
        Envelope.from_json(forged).open_as(RequestProof, known.get)
    with pytest.raises(FormatError, match="already"):
        both.add_signature(PAIR)


def test_a_name_stands_for_its_own_key_only() -> None:
    """A good signature under another key's name is refused, whatever the resolver answers."""
    misnamed = json.loads(sign(message(), OTHER).to_bytes())
    misnamed["signatures"][0]["keyid"] = PAIR.key_id
    with pytest.raises(SignatureError):
        Envelope.from_json(misnamed).open_as(RequestProof, lambda _: OTHER.public_key)
