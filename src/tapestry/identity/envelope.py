"""DSSE envelopes (https://github.com/secure-systems-lab/dsse) around the canonical JSON of a message.

The signature covers the payload's bytes and type, so nothing is parsed before it is verified. An
envelope has one encoding, and every signature on it must verify: there is no byte in it that can be
changed, added or left out without it being refused. Format: `docs/formats/envelope.md`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, ClassVar, Final, Self, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from tapestry.errors import FormatError, SignatureError
from tapestry.identity import keys
from tapestry.identity.keys import KeyPair
from tapestry.protocol import canonical
from tapestry.protocol.message import Message, Part, explain
from tapestry.protocol.messages import KeyId

M = TypeVar("M", bound=Message)

MAX_SIGNATURES: Final = 64
Resolver = Callable[[str], str | None]
"""From the name of a key to the key; None where it is not known."""


def _base64(text: str) -> str:
    """One text for one value: standard alphabet, padded, unused bits zero."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ValueError("is not base64") from e
    if base64.b64encode(data).decode("ascii") != text:
        raise ValueError("is not in the one canonical form of base64")
    return text


class EnvelopeSignature(Part):
    """One signature over the envelope's PAE."""

    keyid: KeyId
    sig: Annotated[str, StringConstraints(min_length=88, max_length=88), AfterValidator(_base64)]


def _ordered(signatures: tuple[EnvelopeSignature, ...]) -> tuple[EnvelopeSignature, ...]:
    ids = [signature.keyid for signature in signatures]
    if any(first >= second for first, second in pairwise(ids)):
        raise ValueError("are not in the order of their keys, each once")
    return signatures


class Envelope(Part):
    """A signed message, not verified yet: `open_as` is the way to what is inside."""

    MAX_BYTES: ClassVar[int] = 2 << 20

    payload: Annotated[str, StringConstraints(max_length=(MAX_BYTES * 3) // 4), AfterValidator(_base64)]
    payloadType: Annotated[str, StringConstraints(pattern=r"^application/vnd\.[a-z0-9.-]{1,64}\+json$")]  # noqa: N815
    signatures: Annotated[
        tuple[EnvelopeSignature, ...],
        Field(min_length=1, max_length=MAX_SIGNATURES),
        AfterValidator(_ordered),
    ]

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical.encode(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse foreign bytes; the payload stays closed. Raises `FormatError` or `TooLarge`."""
        if data.count(b'"keyid":') > MAX_SIGNATURES:
            raise FormatError(f"an envelope has at most {MAX_SIGNATURES} signatures")
        canonical.check_limits(data, what="envelope", max_bytes=cls.MAX_BYTES)
        try:
            found = cls.model_validate_json(data)
            if found.to_bytes() == data:  # which says that they are canonical
                return found
        except (ValidationError, FormatError):
            pass  # what is wrong is found below
        canonical.decode(data, what="envelope", max_bytes=cls.MAX_BYTES)
        return cls._validated(data)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Validate a JSON value, such as an envelope inside a request. Raises `FormatError`."""
        return cls._validated(canonical.encode(value))

    @classmethod
    def _validated(cls, data: bytes) -> Self:
        try:
            return cls.model_validate_json(data)
        except ValidationError as e:
            raise FormatError(f"envelope is not valid: {explain(e)}") from e

    @property
    def digest(self) -> str:
        """SHA-256 of `to_bytes()`."""
        return canonical.sha256(self.to_bytes())

    @property
    def pae(self) -> bytes:
        """The bytes that are signed."""
        return pre_authentication(self.payloadType, base64.b64decode(self.payload))

    def add_signature(self, keypair: KeyPair) -> Envelope:
        """The same message signed by one more key. Raises `FormatError` where that key has signed it."""
        if any(signature.keyid == keypair.key_id for signature in self.signatures):
            raise FormatError("this key has signed the envelope already")
        signatures = (*self.signatures, _signature(self.pae, keypair))
        return Envelope(
            payload=self.payload,
            payloadType=self.payloadType,
            signatures=tuple(sorted(signatures, key=lambda signature: signature.keyid)),
        )

    def open_as(self, message_class: type[M], keys_known: str | Resolver) -> M:
        """Verify, then parse.

        Args:
            message_class: what must be inside.
            keys_known: the one public key that must have signed, or a function that finds keys by name.

        Raises:
            SignatureError: a signature that does not verify or whose key is not known. All must be good.
            FormatError: another kind of message (or `VersionError`), or one that is not valid.
        """
        self._verify(payload_type(message_class), keys_known, message_class.format_name())
        return self.unverified(message_class)

    def open_bytes(self, kind: str, keys_known: str | Resolver) -> bytes:
        """The payload, of a type that is no message of ours; verified, not parsed. Errors as of `open_as`."""
        self._verify(kind, keys_known, "the payload")
        return base64.b64decode(self.payload)

    def _verify(self, expected: str, keys_known: str | Resolver, what: str) -> None:
        if self.payloadType != expected:
            raise FormatError(f"expected {expected}, got an envelope of {self.payloadType}")
        resolve = _only(keys_known) if isinstance(keys_known, str) else keys_known
        pae = self.pae
        for signature in self.signatures:
            public_key = resolve(signature.keyid)
            if public_key is None or keys.key_id(public_key) != signature.keyid:
                raise SignatureError(
                    f"{what} is signed by key {signature.keyid[:16]}, which is not known here"
                )
            keys.verify(public_key, base64.b64decode(signature.sig), pae)

    def unverified(self, message_class: type[M]) -> M:
        """What is inside, whoever has signed it. Raises `FormatError`."""
        return message_class.from_bytes(base64.b64decode(self.payload))


def contents(envelopes: Iterable[str], message_class: type[M]) -> tuple[M, ...]:
    """What is inside of envelopes in JSON text, whoever has signed them. Raises `FormatError`."""
    return tuple(Envelope.from_bytes(text.encode()).unverified(message_class) for text in envelopes)


def sign(message: Message, keypair: KeyPair) -> Envelope:
    """`message` in an envelope signed by one key; `Envelope.add_signature` adds more."""
    return sign_bytes(payload_type(type(message)), message.to_bytes(), keypair)


def sign_bytes(kind: str, data: bytes, keypair: KeyPair) -> Envelope:
    """A payload of any type, in an envelope signed by one key."""
    return Envelope(
        payload=base64.b64encode(data).decode("ascii"),
        payloadType=kind,
        signatures=(_signature(pre_authentication(kind, data), keypair),),
    )


def payload_type(message_class: type[Message]) -> str:
    """`application/vnd.tapestry.contribution+json` for a `Contribution`."""
    return f"application/vnd.{message_class.format_name()}+json"


def pre_authentication(kind: str, data: bytes) -> bytes:
    """DSSE's PAE: type and payload with their lengths, so that no two pairs give the same bytes."""
    name = kind.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(data), data)


def _signature(pae: bytes, keypair: KeyPair) -> EnvelopeSignature:
    sig = base64.b64encode(keypair.sign(pae)).decode("ascii")
    return EnvelopeSignature(keyid=keypair.key_id, sig=sig)


def _only(public_key: str) -> Resolver:
    name = keys.key_id(public_key)
    return lambda keyid: public_key if keyid == name else None
