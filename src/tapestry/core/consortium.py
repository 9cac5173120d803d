"""Members and keys: admission by invitation, certificates, revocations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tapestry.core.journal import ASSEMBLY, Decision, Journal, Moment, Standing
from tapestry.core.votes import Votes
from tapestry.errors import AuthError, Conflict, InvitationError
from tapestry.governance import machine
from tapestry.governance.state import Assembly
from tapestry.identity.envelope import Envelope
from tapestry.identity.invitations import open_join, token_hash
from tapestry.identity.keyring import KeyRing
from tapestry.identity.keys import KeyPair, key_id
from tapestry.ledger.entries import CoreSucceeded, Founded, KeyCertified, KeyRevoked, MemberAdmitted
from tapestry.protocol.clock import parse_time, time_text
from tapestry.protocol.message import Part
from tapestry.protocol.messages import KeyCertificate, KeyRevocation
from tapestry.storage import invitations


def found(journal: Journal, *, title: str, core_key: str, nonce: str) -> None:
    """Write the first entry; nothing happens where there is one."""

    def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
        if standing is not None:
            return Decision(state=standing.state, events=())
        event = Founded(title=title, core_key=core_key, nonce=nonce)
        return Decision(state=Assembly(), events=(event,))

    journal.apply(ASSEMBLY, decide)


def succeed(
    journal: Journal, consortium: str, core_key: str, envelopes: Sequence[Envelope], size: int, root: str
) -> None:
    """Record that a key takes the place of the core's. Errors as of `KeyRing.succeed`, and `Conflict` where
    the ledger has other entries by now."""

    def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
        if moment.sequence != size + 1:
            raise Conflict(f"the ledger has {moment.sequence - 1} entries by now, not {size}")
        assembly = _present(standing)
        ring = assembly.ring.succeed(
            core_key, envelopes, consortium=consortium, size=size, root=root, at=moment.at
        )
        event = CoreSucceeded(core_key=core_key, envelopes=tuple(map(_text, envelopes)))
        return Decision(state=replace(assembly, ring=ring), events=(event,))

    journal.apply_settling(decide)  # at one size of the ledger, so nothing may come before it


class Consortium:
    """One consortium, whose id is the digest of its first entry.

    Raises `AuthError` where `core_key` is not the key it was founded with, or the one that took its place.
    """

    def __init__(self, journal: Journal, core_key: KeyPair) -> None:
        genesis = journal.genesis()
        standing = journal.read(ASSEMBLY)
        self._founding = str(genesis.body.get("core_key"))
        if _present(standing).ring.core_key(self._founding) != core_key.public_key:
            raise AuthError(
                "this core's key is not the one that speaks for its consortium",
                hint="restore keys/core.key and the database from the same backup",
            )
        self.id = genesis.digest
        self.core_key = core_key
        self._journal = journal
        journal.settle = Votes(journal, self.id).settle

    def core_key_at(self, size: int) -> str:
        """The key that signs for a ledger of so many entries."""
        return self.ring().core_key(self._founding, size)

    def ring(self) -> KeyRing:
        """Members and keys as of now."""
        return self.assembly().ring

    def assembly(self) -> Assembly:
        """Members, keys and what was decided, as of now."""
        return _present(self._journal.read(ASSEMBLY))

    def suspended_nodes(self, enrolled: Mapping[str, str]) -> list[str]:
        """Those of the nodes (node → member) whose member takes no part now."""
        governance = self.assembly().governance
        if not governance.suspended:
            return []
        now = time_text(self._journal.now_ms())
        return sorted(node for node, member in enrolled.items() if governance.suspension(member, now))

    def join(self, join_envelope: Envelope, certificates: Sequence[Envelope]) -> tuple[str, list[str]]:
        """Admit a member with its first keys, all or none; again, the same answer.

        Returns:
            the member, and the names of the keys given.

        Raises:
            InvitationError: unknown, used, expired, or another member's.
            Conflict: a node of that name is here already, with another key that is valid.
            AuthError, FormatError, Conflict: as of `KeyRing.admit` and `KeyRing.certify`.
        """
        join = open_join(join_envelope, self.id)

        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            assembly = _present(standing)
            ring = assembly.ring
            machine.may_join(assembly, join.member)
            events: list[Part] = []
            admitted = ring.admit(join.member, join.root_key, sequence=moment.sequence)
            if admitted is not ring:
                invitations.use(moment.connection, token_hash(join.invitation), join.member, moment.at)
                events.append(
                    MemberAdmitted(member=join.member, root_key=join.root_key, envelope=_text(join_envelope))
                )
                ring = admitted
            for certificate in certificates:
                before, ring = ring, _certify(ring, certificate, moment, events, member=join.member)
                if ring is not before:
                    _refuse_twin(before, certificate, at=moment.at)
            return Decision(state=replace(assembly, ring=ring), events=tuple(events))

        ring = self._journal.apply(ASSEMBLY, decide).state.ring
        own = {name for name, key in ring.keys.items() if key.certificate.member == join.member}
        return join.member, sorted(own)

    def certify(self, envelope: Envelope) -> tuple[str, str]:
        """Make a key known; again, no effect. Returns its member and name. Errors as of `KeyRing.certify`."""

        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            events: list[Part] = []
            assembly = _present(standing)
            ring = _certify(assembly.ring, envelope, moment, events)
            return Decision(state=replace(assembly, ring=ring), events=tuple(events))

        self._journal.apply(ASSEMBLY, decide)
        return _certified(envelope)

    def revoke(self, envelope: Envelope) -> tuple[str, str]:
        """End a key; again, no effect. Returns its member and name. Errors as of `KeyRing.revoke`."""

        def decide(moment: Moment, standing: Standing[Assembly] | None) -> Decision[Assembly]:
            assembly = _present(standing)
            ring = assembly.ring.revoke(envelope, sequence=moment.sequence)
            if ring is assembly.ring:
                return Decision(state=assembly, events=())
            member, name = _revoked(envelope)
            event = KeyRevoked(member=member, key_id=name, envelope=_text(envelope))
            return Decision(state=replace(assembly, ring=ring), events=(event,))

        self._journal.apply(ASSEMBLY, decide)
        return _revoked(envelope)

    def members(self) -> list[dict[str, Any]]:
        """Members and their keys as JSON values, by name."""
        ring = self.ring()
        return [
            {
                "member": member,
                "root_key": ring.members[member].root_key,
                "keys": [
                    {
                        "key_id": name,
                        "node": key.certificate.node,
                        "role": key.certificate.role,
                        "public_key": key.certificate.public_key,
                        "not_before": key.certificate.not_before,
                        "expires": key.certificate.expires,
                        "revoked": key.revoked,
                    }
                    for name, key in sorted(ring.keys.items())
                    if key.certificate.member == member
                ],
            }
            for member in sorted(ring.members)
        ]


def lost_nodes(ring: KeyRing, nodes: Sequence[str]) -> list[str]:
    """Those of `nodes` whose keys are all revoked."""
    held = {
        key.certificate.node
        for key in ring.keys.values()
        if key.certificate.role == "node" and key.revoked is None
    }
    return [node for node in nodes if node not in held]


def _present(standing: Standing[Assembly] | None) -> Assembly:
    return standing.state if standing is not None else Assembly()


def _certify(
    ring: KeyRing, envelope: Envelope, moment: Moment, events: list[Part], *, member: str | None = None
) -> KeyRing:
    certified = ring.certify(envelope, sequence=moment.sequence + len(events), at=moment.at)
    owner, name = _certified(envelope)
    if member is not None and owner != member:
        raise InvitationError(f"a certificate of member {owner} cannot join with member {member}")
    if certified is not ring:
        events.append(KeyCertified(member=owner, key_id=name, envelope=_text(envelope)))
    return certified


def _refuse_twin(ring: KeyRing, envelope: Envelope, *, at: str) -> None:
    """Two nodes of one name would take each other's place in every round. A key that is changed comes
    another way, signed for by the key before it; here it may only follow one that is not valid any more."""
    new = envelope.unverified(KeyCertificate)
    for key in ring.keys.values():
        held = key.certificate
        if (
            (held.role, held.node) == ("node", new.node)
            and new.role == "node"
            and key.revoked is None
            and parse_time(held.not_before) <= parse_time(at) < parse_time(held.expires)
        ):
            raise Conflict(
                f"member {new.member} has a node {new.node} already, with another key",
                hint="give this node another name; if it replaces one that is lost, first end that one's key "
                f"from another node of yours: tapestry member key revoke HOME --node {new.node}",
            )


def _certified(envelope: Envelope) -> tuple[str, str]:
    """Member and name of the key in a certificate that the ring has verified."""
    certificate = envelope.unverified(KeyCertificate)
    return certificate.member, key_id(certificate.public_key)


def _revoked(envelope: Envelope) -> tuple[str, str]:
    """Member and name of the key in a revocation that the ring has verified."""
    revocation = envelope.unverified(KeyRevocation)
    return revocation.member, revocation.key_id


def _text(envelope: Envelope) -> str:
    return envelope.to_bytes().decode("ascii")
