"""Which key speaks for whom, and from when to when.

A member's root key is admitted once and then signs nothing but certificates and revocations of the
keys its nodes use. The ring is a pure function of the ledger: each change happens at a position
(`sequence`), and a signature is judged by the keys valid at its own position, so that a repeated
reading of the ledger gives the same verdicts for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeVar

from pydantic import Field, ValidationError

from tapestry.errors import Conflict, FormatError, KeyRefused, NotFound, SignatureError, UnknownMember
from tapestry.identity.envelope import Envelope, sign
from tapestry.identity.keys import KeyPair, key_id
from tapestry.protocol import canonical
from tapestry.protocol.canonical import Name
from tapestry.protocol.clock import parse_time
from tapestry.protocol.message import Message, Part, explain
from tapestry.protocol.messages import Join, KeyCertificate, KeyId, KeyRevocation, PublicKey, Succession

M = TypeVar("M", bound=Message)

Role = Literal["node", "witness", "vote", "release"]
NODE_ONLY: Final[frozenset[Role]] = frozenset({"node"})
WITNESS_ONLY: Final[frozenset[Role]] = frozenset({"witness"})


@dataclass(frozen=True)
class Signer:
    """Whose signature it was."""

    member: str
    node: str | None
    role: Role
    key_id: str


class Admitted(Part):
    """A member."""

    root_key: PublicKey
    sequence: int
    """Position of its admission."""
    former: tuple[PublicKey, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Root keys that others have replaced."""
    expelled: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Position from which on it is out."""


class Certified(Part):
    """A key that a member's root key has signed."""

    certificate: KeyCertificate
    sequence: int
    """Position from which on, itself excluded, the key may sign."""
    revoked: int | None = None
    """Position of its revocation: what comes later is refused, what came before stays good."""


class CoreKey(Part):
    """A key of the core that is not the founding one."""

    key: PublicKey
    sequence: int
    """Position from which on it signs for the ledger."""


class KeyRing(Part):
    """All members and keys, as of some position. Immutable: each change gives another ring."""

    members: dict[Name, Admitted] = Field(default_factory=dict)
    keys: dict[KeyId, Certified] = Field(default_factory=dict)
    successions: tuple[CoreKey, ...] = ()
    """Keys that have taken the place of the core's, oldest first."""

    @property
    def active(self) -> dict[str, Admitted]:
        """Members that are not expelled."""
        return {name: each for name, each in self.members.items() if each.expelled is None}

    def core_key(self, founding: str, size: int | None = None) -> str:
        """The core's key: now, or that which signs for a ledger of `size` entries; `founding`: the first."""
        held = [each.key for each in self.successions if size is None or each.sequence <= size]
        return held[-1] if held else founding

    def to_json(self) -> dict[str, Any]:
        """JSON types only, for a snapshot."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The ring that `to_json` described. Raises `FormatError`."""
        try:
            return cls.model_validate_json(canonical.encode(value))
        except ValidationError as e:
            raise FormatError(f"key ring is not valid: {explain(e)}") from e

    def admit(self, member: str, root_key: str, *, sequence: int) -> KeyRing:
        """With a new member; unchanged for one that is admitted with the same key.

        Raises:
            Conflict: the name is taken.
            KeyRefused: the key is in use, as a root key or as a node's.
        """
        present = self.members.get(member)
        if present is not None:
            if present.root_key == root_key:
                return self
            raise Conflict(
                f"member {member} is admitted with another root key",
                hint="choose another name, or use the root key the member joined with",
            )
        self.refuse_used(root_key)
        admitted = Admitted(root_key=root_key, sequence=sequence)
        return self.model_copy(update={"members": {**self.members, member: admitted}})

    def certify(self, envelope: Envelope, *, sequence: int, at: str) -> KeyRing:
        """With the key of a certificate; unchanged for a certificate that is in the ring.

        Args:
            envelope: a `KeyCertificate` signed by its member's root key.
            sequence: position of this event.
            at: time of this event.

        Raises:
            UnknownMember: no admitted member's root key has signed it.
            SignatureError, FormatError: as `Envelope.open_as`.
            KeyRefused: it names another member, its dates leave it no life, its role needs a node, or
                the key was used before.
            Conflict: the node belongs to another member.
        """
        certificate = self._from_root(envelope, KeyCertificate)
        name = key_id(certificate.public_key)
        present = self.keys.get(name)
        if present is not None and present.certificate == certificate:
            return self
        self.refuse_used(certificate.public_key)
        if parse_time(certificate.not_before) >= parse_time(certificate.expires):
            raise KeyRefused(
                f"the certificate of key {name[:16]} expires before it is valid",
                hint="make one whose not_before is earlier than its expires",
            )
        if parse_time(certificate.expires) <= parse_time(at):
            raise KeyRefused(
                f"the certificate of key {name[:16]} expired at {certificate.expires}",
                hint="sign a new certificate with the member's root key",
            )
        if certificate.role == "node" and certificate.node is None:
            raise KeyRefused(
                f"the certificate of key {name[:16]} has the role node and names no node",
                hint="sign a new certificate that names the node",
            )
        if certificate.node is not None:
            for other in self.keys.values():
                holder = other.certificate
                if holder.node == certificate.node and holder.member != certificate.member:
                    raise Conflict(
                        f"node {certificate.node} belongs to member {holder.member}",
                        hint="give the node another name",
                    )
        certified = Certified(certificate=certificate, sequence=sequence)
        return self.model_copy(update={"keys": {**self.keys, name: certified}})

    def revoke(self, envelope: Envelope, *, sequence: int) -> KeyRing:
        """With a key ended from this position on; unchanged where it was revoked before.

        Args:
            envelope: a `KeyRevocation` signed by the root key of the member whose key it is.
            sequence: position of this event.

        Raises:
            UnknownMember, SignatureError, FormatError, KeyRefused: as `certify`.
            NotFound: this member has no such key.
        """
        revocation = self._from_root(envelope, KeyRevocation)
        entry = self.keys.get(revocation.key_id)
        if entry is None or entry.certificate.member != revocation.member:
            raise NotFound(f"member {revocation.member} has no key {revocation.key_id[:16]}")
        if entry.revoked is not None:
            return self
        ended = entry.model_copy(update={"revoked": sequence})
        return self.model_copy(update={"keys": {**self.keys, revocation.key_id: ended}})

    def succeed(
        self,
        core_key: str,
        envelopes: Collection[Envelope],
        *,
        consortium: str,
        size: int,
        root: str,
        at: str,
    ) -> KeyRing:
        """With another key in the core's place, which more than half of all members have signed for.

        Args:
            core_key: the new one.
            envelopes: a `Succession` each, signed by a member's witness key.
            consortium: its id.
            size: entries of the ledger before this event.
            root: of their tree.
            at: time of this event.

        Raises:
            KeyRefused: it has too few signatures, or was used before.
            SignatureError, FormatError, UnknownMember: as `verify`.
        """
        self.refuse_used(core_key)
        signed = set()
        for envelope in envelopes:
            said, signer = self.verify(envelope, Succession, at=at, roles=WITNESS_ONLY)
            if (said.consortium, said.core_key, said.size, said.root) != (consortium, core_key, size, root):
                raise SignatureError(
                    f"member {signer.member} has signed the core's succession for another key or ledger"
                )
            signed.add(signer.member)
        if 2 * len(signed) <= len(self.active):
            raise KeyRefused(
                f"{len(signed)} of {len(self.active)} members have signed for the core's new key",
                hint="more than half of all members must: name more of their nodes",
            )
        after = CoreKey(key=core_key, sequence=size + 1)
        return self.model_copy(update={"successions": (*self.successions, after)})

    def verify(
        self,
        envelope: Envelope,
        message_class: type[M],
        *,
        at: str,
        sequence: int | None = None,
        roles: Collection[Role] = NODE_ONLY,
    ) -> tuple[M, Signer]:
        """Open an envelope signed by one member's key that is valid there and then.

        Where the message names a member or a node, the key must be theirs.

        Args:
            envelope: exactly one signature.
            message_class: what must be inside.
            at: time of the event that brings it, by the core's clock.
            sequence: position of that event; None for the end of the ledger.
            roles: kinds of key that may sign it.

        Raises:
            SignatureError, FormatError: as `Envelope.open_as`, or more than one signature.
            UnknownMember: the key was never certified.
            KeyRefused: the key is not valid yet, expired, revoked, of another role, or of another member
                or node than the message names.
        """
        if len(envelope.signatures) != 1:
            raise FormatError(f"{message_class.format_name()} must have one signature")
        name = envelope.signatures[0].keyid
        entry = self.keys.get(name)
        if entry is None:
            if self._root(name) is not None:
                raise KeyRefused(
                    f"{message_class.format_name()} is signed by a member's root key",
                    hint="sign it with the node's key; a root key signs certificates and revocations only",
                )
            raise UnknownMember(
                f"{message_class.format_name()} is signed by key {name[:16]}, which no member has certified",
                hint="join the consortium first, or register the node's new key",
            )
        certificate = entry.certificate
        message = envelope.open_as(message_class, certificate.public_key)
        signer = Signer(certificate.member, certificate.node, certificate.role, name)
        self._refuse_invalid(entry, signer, at, sequence)
        if certificate.role not in roles:
            raise KeyRefused(
                f"{message_class.format_name()} is signed by a {certificate.role} key of {_holder(signer)}",
                hint=f"sign it with a key whose role is {' or '.join(sorted(roles))}",
            )
        for field, own in (("member", signer.member), ("node", signer.node)):
            named = getattr(message, field, own)
            if own is not None and named != own:
                raise KeyRefused(
                    f"{message_class.format_name()} names {field} {named} and is signed by a key of {own}",
                    hint=f"sign it with the key of {field} {named}",
                )
        return message, signer

    def _refuse_invalid(self, entry: Certified, signer: Signer, at: str, sequence: int | None) -> None:
        what = f"key {signer.key_id[:16]} of {_holder(signer)}"
        certificate = entry.certificate
        renew = "give the node a new key: tapestry member key rotate NODE_HOME --member FOLDER"
        if signer.role == "vote":
            renew = "give the member a new vote key: tapestry member key vote FOLDER --core URL"
        if sequence is not None and sequence <= entry.sequence:
            raise KeyRefused(f"{what} was not certified yet", hint="register its certificate first")
        self._refuse_expelled(signer.member)
        if entry.revoked is not None and (sequence is None or sequence > entry.revoked):
            raise KeyRefused(f"{what} is revoked", hint=renew)
        moment = parse_time(at)
        if moment < parse_time(certificate.not_before):
            raise KeyRefused(
                f"{what} is valid from {certificate.not_before} on; it is {at}",
                hint="wait until then, or register a certificate that is valid earlier",
            )
        if moment >= parse_time(certificate.expires):
            raise KeyRefused(f"{what} expired at {certificate.expires}", hint=renew)

    def _refuse_expelled(self, member: str) -> None:
        expelled = self.members[member].expelled
        if expelled is not None:
            raise KeyRefused(
                f"member {member} was expelled, as entry {expelled} of the ledger says",
                hint="another member can ask for an appeal: tapestry proposal new hear-appeal",
            )

    def _from_root(
        self, envelope: Envelope, message_class: type[KeyCertificate] | type[KeyRevocation]
    ) -> Any:
        what = message_class.format_name()
        if len(envelope.signatures) != 1:
            raise FormatError(f"{what} must have one signature")
        member = self._root(envelope.signatures[0].keyid)
        if member is None:
            raise UnknownMember(
                f"{what} is not signed by the root key of an admitted member",
                hint="join the consortium first; sign with the root key the member joined with",
            )
        message = envelope.open_as(message_class, self.members[member].root_key)
        self._refuse_expelled(member)
        if message.member != member:
            raise KeyRefused(
                f"{what} names member {message.member} and is signed by the root key of {member}",
                hint=f"sign it with the root key of {message.member}",
            )
        return message

    def _root(self, keyid: str) -> str | None:
        for member, admitted in self.members.items():
            if key_id(admitted.root_key) == keyid:
                return member
        return None

    def refuse_used(self, public_key: str) -> None:
        """Raise `KeyRefused` for a key that somebody has or had."""
        name = key_id(public_key)
        former = (key for each in self.members.values() for key in each.former)
        if name in self.keys or self._root(name) is not None or name in map(key_id, former):
            raise KeyRefused(
                f"key {name[:16]} was used before",
                hint="each has one holder and one purpose; make another: tapestry member key rotate",
            )


def make_certificate(
    root: KeyPair,
    *,
    member: str,
    node: str | None,
    role: Role,
    public_key: str,
    not_before: str,
    expires: str,
) -> Envelope:
    """A certificate for `public_key`. Put `not_before` some time back: the core's clock judges it."""
    return sign(
        KeyCertificate(
            member=member, node=node, role=role, public_key=public_key, not_before=not_before, expires=expires
        ),
        root,
    )


def make_revocation(
    root: KeyPair, *, member: str, revoked: str, reason: Literal["rotated", "compromised", "retired"]
) -> Envelope:
    """Ends the key named `revoked` (a key id)."""
    return sign(KeyRevocation(member=member, key_id=revoked, reason=reason), root)


def make_join(root: KeyPair, *, consortium: str, invitation: str, member: str) -> Envelope:
    """Asks for admission under this root key."""
    return sign(
        Join(consortium=consortium, invitation=invitation, member=member, root_key=root.public_key), root
    )


def _holder(signer: Signer) -> str:
    return f"node {signer.node}" if signer.node is not None else f"member {signer.member}"
