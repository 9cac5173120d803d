"""Keys: the standard's test vectors, PEM both ways, and nothing secret in a repr."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import InputError, SignatureError
from tapestry.identity.keys import KeyPair, key_id, verify

# RFC 8032, section 7.1: secret, public, message, signature
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    pair = KeyPair(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert pair.public_key == public
    assert pair.sign(bytes.fromhex(message)).hex() == signature
    verify(public, bytes.fromhex(signature), bytes.fromhex(message))


def test_a_key_is_named_by_the_hash_of_its_raw_bytes() -> None:
    pair = KeyPair.generate()
    assert (
        pair.key_id == key_id(pair.public_key) == hashlib.sha256(bytes.fromhex(pair.public_key)).hexdigest()
    )
    assert KeyPair.generate().key_id != pair.key_id


def test_pem_both_ways() -> None:
    pair = KeyPair.generate()
    pem = pair.to_pem()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    again = KeyPair.from_pem(pem)
    assert (again.key_id, again.to_pem()) == (pair.key_id, pem)


def test_a_repr_shows_no_secret() -> None:
    pair = KeyPair.generate()
    assert repr(pair) == f"KeyPair({pair.key_id[:16]})"


def pem(key: object, password: bytes | None = None) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        pem(Ed25519PrivateKey.generate(), b"secret"),
        pem(generate_private_key(SECP256R1())),
        Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["empty", "text", "rubbish", "encrypted", "another-kind", "public"],
)
def test_another_file_is_a_typed_error_that_does_not_repeat_it(data: bytes) -> None:
    with pytest.raises(InputError) as raised:
        KeyPair.from_pem(data)
    if data:
        assert data.decode() not in raised.value.message + str(raised.value.hint)


@given(st.binary(max_size=64), st.integers(0, 511))
def test_any_flipped_bit_of_a_signature_is_refused(data: bytes, bit: int) -> None:
    pair = KeyPair.generate()
    good = pair.sign(data)
    verify(pair.public_key, good, data)
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureError):
        verify(pair.public_key, bytes(bad), data)


@pytest.mark.parametrize("public", ["", "00", "A" * 64, "g" * 64, "ff" * 31, "0x" + "0" * 62])
def test_what_is_no_public_key(public: str) -> None:
    with pytest.raises(SignatureError):
        key_id(public)
    with pytest.raises(SignatureError):
        verify(public, b"\0" * 64, b"")


@pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65])
def test_what_is_no_signature(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        verify(KeyPair.generate().public_key, signature, b"")
