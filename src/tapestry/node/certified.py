"""Who holds which node key, by this node's own verified copy of the ledger and not by the core's word."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from tapestry.audit import file
from tapestry.errors import InputError, IntegrityError, SettingsError
from tapestry.identity.envelope import Envelope
from tapestry.node.home import Home
from tapestry.node.kept import Kept
from tapestry.node.people import Holder, holders, said_by_member
from tapestry.protocol.message import Message
from tapestry.transport.client import CoreClient

M = TypeVar("M", bound=Message)


def said(
    home: Home, client: CoreClient, envelopes: Sequence[Envelope], kind: type[M], consortium: str
) -> list[M]:
    """What members have signed of their own, as of `people.said_by_member`."""
    names = {each.keyid for envelope in envelopes for each in envelope.signatures}
    known = certified(home, client, names)
    return [said_by_member(envelope, kind, known, consortium) for envelope in envelopes]


def certified(home: Home, client: CoreClient, names: Collection[str]) -> dict[str, Holder]:
    """All node keys that members have certified. What the core has added to its ledger since this node's copy
    is fetched and verified if one of these keys is not in it, and kept nowhere. A node without a copy has the
    core's word alone.

    Raises:
        IntegrityError: the core's ledger does not go on from this node's copy.
        SettingsError: that copy cannot be read.
        PeerError: the core is away.
    """
    try:
        kept = Kept.of(home)
    except SettingsError:
        raise
    except InputError:
        return holders(client.members())
    verifier = kept.verifier()
    whole = set(names) <= verifier.ring.keys.keys()
    while not whole:  # to a head that the core has signed: what nobody has signed may be denied
        size = verifier.found.entries
        lines = list(file.parse(client.ledger(after=size)))
        for line in lines:
            verifier.line(line)
        whole = bool(lines) and lines[-1][0] == "checkpoint"
        if not whole and verifier.found.entries == size:
            raise IntegrityError(f"the core gives no head of its ledger behind entry {size}")
    return {
        name: Holder(member=told.member, node=told.node, public_key=told.public_key)
        for name, key in verifier.ring.keys.items()
        if (told := key.certificate).role == "node" and told.node is not None
    }
