"""Who countersigns entitlements to a release, and by which keys: stated where the release is accepted.

An entitlement is checked without the ledger, years later. That a key was not revoked, nothing short of the
whole ledger shows; so the decision itself, which every verifier repeats, names the keys that hold.
"""

from __future__ import annotations

from tapestry.governance.charter import Charter
from tapestry.governance.proposal import AcceptRelease
from tapestry.governance.state import Item
from tapestry.identity.keyring import Certified, KeyRing
from tapestry.ledger.entries import VoteKey
from tapestry.protocol.clock import parse_time


def signers(ring: KeyRing, charter: Charter, item: Item, at: str) -> tuple[VoteKey, ...] | None:
    """The newest valid vote key of each holder, by member; None of another decision than to accept a release.

    Args:
        ring: after the decision.
        charter: by which it was counted.
        at: time of the decision.
    """
    if not isinstance(item.subject, AcceptRelease):
        return None
    newest: dict[str, tuple[int, str]] = {}
    for name, key in ring.keys.items():
        member = key.certificate.member
        if member in charter.release.holders and member in ring.active and _speaks(key, at):
            newest[member] = max(newest.get(member, (0, "")), (key.sequence, name))
    return tuple(VoteKey(member=member, key_id=newest[member][1]) for member in sorted(newest))


def _speaks(key: Certified, at: str) -> bool:
    said = key.certificate
    valid = parse_time(said.not_before) <= parse_time(at) < parse_time(said.expires)
    return said.role == "vote" and key.revoked is None and valid
