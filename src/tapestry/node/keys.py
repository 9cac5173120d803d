"""A node's own keys: `keys/<role>.key` and the certificate its member gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tapestry.errors import SettingsError, TapestryError
from tapestry.host import files
from tapestry.identity.envelope import Envelope
from tapestry.identity.keys import KeyPair
from tapestry.node.home import Home
from tapestry.node.member import Member, read_key
from tapestry.protocol.messages import KeyCertificate

KeyRole = Literal["node", "witness"]
KEY_ROLES: Final[tuple[KeyRole, ...]] = ("node", "witness")
NEXT: Final = ".next"
"""Suffix of a key that a rotation has made and not put in place yet."""


@dataclass(frozen=True)
class NodeKey:
    """A key with its certificate."""

    pair: KeyPair
    certificate: Envelope

    def statement(self, root_key: str) -> KeyCertificate:
        """What the certificate says. Raises `SignatureError` unless `root_key` signed it."""
        return self.certificate.open_as(KeyCertificate, root_key)


def issue(home: Home, member: Member, *, node: str, role: KeyRole, now: str, suffix: str = "") -> NodeKey:
    """Make a key, have the member certify it, and write both."""
    pair = KeyPair.generate()
    files.private_write(home.keys / f"{role}{suffix}.key", pair.to_pem(), replace=bool(suffix))
    return certify(home, member, pair, node=node, role=role, now=now, suffix=suffix)


def certify(
    home: Home, member: Member, pair: KeyPair, *, node: str, role: KeyRole, now: str, suffix: str = ""
) -> NodeKey:
    """Write a new certificate for a key that lies there."""
    certificate = member.certify(node=node, role=role, public_key=pair.public_key, now=now)
    files.write_atomic(home.keys / f"{role}{suffix}.cert.json", certificate.to_bytes())
    return NodeKey(pair, certificate)


def load_pair(home: Home, role: KeyRole = "node", suffix: str = "") -> KeyPair:
    """The key alone. Raises `SettingsError`."""
    return read_key(home.keys / f"{role}{suffix}.key")


def load(home: Home, role: KeyRole = "node", suffix: str = "") -> NodeKey:
    """A key and its certificate. Raises `SettingsError`."""
    path = home.keys / f"{role}{suffix}.cert.json"
    try:
        certificate = Envelope.from_bytes(files.read_limited(path, Envelope.MAX_BYTES))
    except (OSError, TapestryError) as e:
        raise SettingsError(f"certificate {path} cannot be read: {e}") from e
    return NodeKey(load_pair(home, role, suffix), certificate)
