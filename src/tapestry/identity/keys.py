"""Ed25519 keys. A public key travels as 64 hexadecimal digits and is named by the hash of its bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tapestry.errors import InputError, SignatureError
from tapestry.protocol import canonical

SIGNATURE_BYTES = 64


@lru_cache(maxsize=4096)
def key_id(public_key: str) -> str:
    """The name of a public key: SHA-256 of its 32 bytes. Raises `SignatureError` if it is none."""
    return canonical.sha256(_raw(public_key))


def verify(public_key: str, signature: bytes, data: bytes) -> None:
    """Raises `SignatureError` unless `signature` is this key's over `data`."""
    try:
        Ed25519PublicKey.from_public_bytes(_raw(public_key)).verify(signature, data)
    except InvalidSignature as e:
        raise SignatureError(f"the signature of key {key_id(public_key)[:16]} does not verify") from e
    except ValueError as e:
        raise SignatureError(f"{public_key} is not an Ed25519 public key") from e


class KeyPair:
    """A private key and its public half. Never shows the private one."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key().public_bytes_raw().hex()
        """64 hexadecimal digits."""
        self.key_id = key_id(self.public_key)

    @classmethod
    def generate(cls) -> Self:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, data: bytes) -> Self:
        """Read a PKCS8 PEM without a password. Raises `InputError`, which does not repeat the content."""
        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise InputError(
                "this is not an unencrypted PEM private key",
                hint="give the .key file as it was written; it starts with -----BEGIN PRIVATE KEY-----",
            ) from e
        if not isinstance(private, Ed25519PrivateKey):
            raise InputError("this private key is not an Ed25519 key")
        return cls(private)

    def to_pem(self) -> bytes:
        """PKCS8 PEM, not encrypted: write it with `host.files.private_write`."""
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"KeyPair({self.key_id[:16]})"


def _raw(public_key: str) -> bytes:
    if not canonical.is_sha256(public_key):  # the same form: 64 lower-case hexadecimal digits
        raise SignatureError("a public key has 64 lower-case hexadecimal digits")
    return bytes.fromhex(public_key)
