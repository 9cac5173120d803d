"""OpenSSF model signatures: a Sigstore bundle around an in-toto statement that lists all files of a folder.

Signed with a key on P-256, as the format asks for; so a holder has one beside its release key, which signs
for it. Written here from the format's description, since the library that writes it brings a client of public
services; its own program verifies what this writes (`make oms`). docs/formats/releases.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from tapestry.errors import InputError, SignatureError
from tapestry.identity.envelope import pre_authentication

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://model_signing/signature/v1.0"
SIGNATURES: Final = "signatures"
"""Folder beside the model that no signature covers: the signatures themselves."""
IGNORED: Final = (SIGNATURES, ".git", ".gitattributes", ".github", ".gitignore")


class ModelKeyPair:
    """A private key on P-256. Never shows itself."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        public = private.public_key()
        self.public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")

    @classmethod
    def generate(cls) -> ModelKeyPair:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, data: bytes) -> ModelKeyPair:
        """Raises `InputError`, which does not repeat the content."""
        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise InputError("this is not an unencrypted PEM private key") from e
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
            raise InputError("this private key is not on the curve P-256")
        return cls(private)

    def to_pem(self) -> bytes:
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, name: str, digests: Mapping[str, str]) -> str:
        """A bundle for a model folder.

        Args:
            name: of the model.
            digests: path → SHA-256 of every file but the signatures.
        """
        payload = _statement(name, digests)
        signature = self._private.sign(pre_authentication(PAYLOAD, payload), ec.ECDSA(hashes.SHA256()))
        return _bundle(self.public_pem, payload, signature)

    def __repr__(self) -> str:
        return f"ModelKeyPair({_hint(self.public_pem)[:16]})"


def verify(bundle: str, public_pem: str, name: str, digests: Mapping[str, str]) -> None:
    """Raise `SignatureError` unless the bundle is this key's, over just these files."""
    try:
        value = json.loads(bundle)
        envelope = value["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        sig = base64.b64decode(signature["sig"], validate=True)
        kinds = value["mediaType"], envelope["payloadType"]
        public = load_pem_public_key(public_pem.encode("ascii"))
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError, UnsupportedAlgorithm) as e:
        raise SignatureError("this is no signature of a model folder") from e
    if kinds != (BUNDLE, PAYLOAD) or not isinstance(public, ec.EllipticCurvePublicKey):
        raise SignatureError("this is no signature of a model folder, or of another kind of key")
    try:
        public.verify(sig, pre_authentication(PAYLOAD, payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as e:
        raise SignatureError("the signature of the model folder does not verify") from e
    if bundle != _bundle(public_pem, payload, sig):
        raise SignatureError("the signature of the model folder has parts that nobody has signed")
    if payload != _statement(name, digests):
        raise SignatureError(f"the signature is of another model folder than {name}, or of other files")


def _bundle(public_pem: str, payload: bytes, signature: bytes) -> str:
    bundle = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(public_pem)}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":"))


def _statement(name: str, digests: Mapping[str, str]) -> bytes:
    """The in-toto statement. Its subject is the hash over all files' hashes, in the order of their paths."""
    whole = hashlib.sha256()
    resources: list[dict[str, Any]] = []
    for path, digest in sorted(digests.items()):
        whole.update(bytes.fromhex(digest))
        resources.append({"name": path, "algorithm": "sha256", "digest": digest})
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(IGNORED),
            },
            "resources": resources,
        },
    }
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _hint(public_pem: str) -> str:
    return hashlib.sha256(public_pem.encode("ascii")).hexdigest()
