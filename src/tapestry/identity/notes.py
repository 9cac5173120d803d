"""Signed notes: text with Ed25519 signatures under it, one a line.

The format is C2SP's signed-note; a cosignature is that of C2SP's tlog-cosignature, which signs a time too. A
key is found by its name and four bytes of a hash, so whoever verifies gives the name with it. Here a note
has one encoding: what a lenient reader would pass over is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass, replace
from typing import Final, Self

from tapestry.errors import FormatError, SignatureError
from tapestry.identity import keys
from tapestry.identity.keys import SIGNATURE_BYTES, KeyPair

MAX_BYTES: Final = 256 << 10
MAX_SIGNATURES: Final = 1024
PLAIN: Final = 0x01
"""Type of a signature over the text."""
COSIGNATURE: Final = 0x04
"""Type of one over a time and the text."""
_ID_BYTES: Final = 4
_LINE: Final = re.compile(r"— ([^\s+]{1,255}) ([A-Za-z0-9+/]+={0,2})")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


def signature_id(name: str, kind: int, public_key: str) -> bytes:
    """The four bytes by which a signature says whose it is."""
    told = name.encode() + b"\n" + bytes([kind]) + bytes.fromhex(public_key)
    return hashlib.sha256(told).digest()[:_ID_BYTES]


@dataclass(frozen=True)
class NoteSignature:
    """One line under a note. `data`: the key's four bytes, and what it has signed."""

    name: str
    data: bytes

    @property
    def line(self) -> str:
        return f"— {self.name} {base64.b64encode(self.data).decode('ascii')}\n"


@dataclass(frozen=True)
class Note:
    """Not verified yet: `check` and `cosigned_at` say what its signatures are worth.

    Args:
        text: ends with a line break.
        signatures: in the order of the lines.
    """

    text: str
    signatures: tuple[NoteSignature, ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises `FormatError`."""
        if len(data) > MAX_BYTES:
            raise FormatError(f"a note of {len(data)} bytes is longer than {MAX_BYTES}")
        try:
            whole = data.decode("utf-8")
        except UnicodeDecodeError as e:
            raise FormatError("a note is UTF-8 text, this is not") from e
        text, blank, under = whole.rpartition("\n\n")
        if not blank or not text or not under.endswith("\n") or _CONTROL.search(whole):
            raise FormatError(
                "this is no note: text, a blank line, and signatures, without control characters"
            )
        lines = under.split("\n")[:-1]
        if len(lines) > MAX_SIGNATURES:
            raise FormatError(f"a note has at most {MAX_SIGNATURES} signatures, this one {len(lines)}")
        found = cls(text + "\n", tuple(map(_parsed, lines)))
        known = {(each.name, each.data[:_ID_BYTES]) for each in found.signatures}
        if len(known) != len(lines) or found.to_bytes() != data:
            raise FormatError("a note has each key's signature once, and one form")
        return found

    def to_bytes(self) -> bytes:
        return (self.text + "\n" + "".join(each.line for each in self.signatures)).encode()

    def signed(self, name: str, keypair: KeyPair) -> Self:
        """With a signature over the text."""
        signature = keypair.sign(self.text.encode())
        return self._with(name, PLAIN, keypair, signature)

    def cosigned(self, name: str, keypair: KeyPair, time_s: int) -> Self:
        """With a signature over a time, in whole seconds since 1970, and the text."""
        signature = struct.pack(">Q", time_s) + keypair.sign(_cosigned_bytes(self.text, time_s))
        return self._with(name, COSIGNATURE, keypair, signature)

    def check(self, name: str, public_key: str) -> None:
        """Raise `SignatureError` unless this key has signed the text."""
        signature = self._of(name, PLAIN, public_key)
        if signature is None:
            raise SignatureError(f"the note is not signed by {name}")
        keys.verify(public_key, signature, self.text.encode())

    def cosigned_at(self, name: str, public_key: str) -> int | None:
        """When this key cosigned the text, in seconds since 1970; None where it did not. Raises
        `SignatureError` for a line that is in its name and not by it."""
        signature = self._of(name, COSIGNATURE, public_key)
        if signature is None:
            return None
        (time_s,) = struct.unpack(">Q", signature[:8])
        keys.verify(public_key, signature[8:], _cosigned_bytes(self.text, time_s))
        return int(time_s)

    def _with(self, name: str, kind: int, keypair: KeyPair, signature: bytes) -> Self:
        line = NoteSignature(name, signature_id(name, kind, keypair.public_key) + signature)
        others = [each for each in self.signatures if _key(each) != _key(line)]
        return replace(self, signatures=(*others, line))

    def _of(self, name: str, kind: int, public_key: str) -> bytes | None:
        """What a key has signed, without its four bytes."""
        key = (name, signature_id(name, kind, public_key))
        found = next((each.data[_ID_BYTES:] for each in self.signatures if _key(each) == key), None)
        if found is not None and len(found) != SIGNATURE_BYTES + (8 if kind == COSIGNATURE else 0):
            raise SignatureError(f"the signature of {name} has {len(found)} bytes")
        return found


def _key(signature: NoteSignature) -> tuple[str, bytes]:
    return signature.name, signature.data[:_ID_BYTES]


def _cosigned_bytes(text: str, time_s: int) -> bytes:
    if not 0 <= time_s < 1 << 63:
        raise SignatureError(f"{time_s} is no time of a cosignature")
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _parsed(line: str) -> NoteSignature:
    match = _LINE.fullmatch(line)
    if match is None:
        raise FormatError(f"{line[:80]!r} is no signature of a note")
    try:
        data = base64.b64decode(match[2], validate=True)
    except binascii.Error as e:
        raise FormatError(f"the signature of {match[1]} is not base64") from e
    if len(data) <= _ID_BYTES:
        raise FormatError(f"the signature of {match[1]} is too short")
    return NoteSignature(match[1], data)
