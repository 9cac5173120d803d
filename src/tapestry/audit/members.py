"""Who is a member and which key speaks for whom, repeated from the entries that say so."""

from __future__ import annotations

from dataclasses import dataclass

from tapestry.errors import IntegrityError
from tapestry.identity.envelope import Envelope
from tapestry.identity.invitations import open_join
from tapestry.identity.keyring import KeyRing
from tapestry.ledger.entries import CoreSucceeded, Entry, KeyCertified, KeyRevoked, MemberAdmitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """Which ledger, and the root of its tree before the entry."""

    consortium: str
    root: str


def changed(
    ring: KeyRing, entry: Entry, event: MemberAdmitted | KeyCertified | KeyRevoked | CoreSucceeded, here: Here
) -> KeyRing:
    """The ring after an entry. Raises `IntegrityError` and whatever the rules of keys refuse it with."""
    match event:
        case MemberAdmitted():
            join = open_join(Envelope.from_bytes(event.envelope.encode()), here.consortium)
            if (join.member, join.root_key) != (event.member, event.root_key):
                raise IntegrityError(f"member {event.member} asked to join as something else")
            after = ring.admit(event.member, event.root_key, sequence=entry.sequence)
            if after is ring:
                raise IntegrityError(f"member {event.member} was admitted before")
        case KeyCertified():
            envelope = Envelope.from_bytes(event.envelope.encode())
            after = ring.certify(envelope, sequence=entry.sequence, at=entry.at)
            _one(after, set(after.keys) - set(ring.keys), event.key_id, event.member)
        case KeyRevoked():
            after = ring.revoke(Envelope.from_bytes(event.envelope.encode()), sequence=entry.sequence)
            ended = {name for name, key in after.keys.items() if key != ring.keys.get(name)}
            _one(after, ended, event.key_id, event.member)
        case CoreSucceeded():
            after = ring.succeed(
                event.core_key,
                [Envelope.from_bytes(text.encode()) for text in event.envelopes],
                consortium=here.consortium,
                size=entry.sequence - 1,
                root=here.root,
                at=entry.at,
            )
    return after


def _one(ring: KeyRing, names: set[str], named: str, member: str) -> None:
    if names != {named} or ring.keys[named].certificate.member != member:
        raise IntegrityError(f"the envelope is not about key {named[:16]} of member {member}")
