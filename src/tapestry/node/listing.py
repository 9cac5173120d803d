"""A member's side of the catalog: publish what a card shows, take it back, list what others show.

Called by the owner, never by the agent. What is sent is in the log of signed messages, like all that leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.catalog.card import Card
from tapestry.catalog.listing import CatalogEntry, shown
from tapestry.identity.envelope import Envelope, sign
from tapestry.node import keys, settings, setup
from tapestry.node.certified import said
from tapestry.node.home import Home
from tapestry.node.leaks import Leaks
from tapestry.node.outbox import Outbox


def publish(
    home: Home, cards: Sequence[Card], *, take_back: Sequence[str] = (), core_url: str | None = None
) -> list[CatalogEntry]:
    """Tell the core what cards show; and of the datasets in `take_back` that there is nothing to show.

    Returns what was signed. Raises `Leak` where a card shows a canary, what the core answers, `Unreachable`.
    """
    given, pair = settings.load(home).node, keys.load_pair(home)
    consortium = setup.load_consortium(home).consortium
    made, searched = [], Leaks(home)
    with setup.connect(home, core_url=core_url) as client:
        outbox = Outbox(home, client.traffic)
        for name, card in [*((card.name, card) for card in cards), *((name, None) for name in take_back)]:
            what, public = shown(card) if card is not None else (None, ())
            entry = CatalogEntry(
                consortium=consortium,
                member=given.member,
                node=given.name,
                dataset=name,
                at=client.hello().time,
                card=what,
                public=public,
            )
            searched.check("what a card shows", entry.to_bytes())
            envelope = sign(entry, pair).to_bytes()
            outbox.signed("catalog-entry", name, envelope)
            client.publish_listing(envelope)
            made.append(entry)
        outbox.count(now=True)
    return made


def listed(home: Home, *, core_url: str | None = None) -> list[CatalogEntry]:
    """What all members show of their datasets, each signed by a key of that member.

    Raises:
        SignatureError: an entry that its member did not sign.
        Unreachable: no core.
    """
    consortium = setup.load_consortium(home).consortium
    with setup.connect(home, core_url=core_url) as client:
        envelopes = [Envelope.from_json(value) for value in client.listings()]
        return said(home, client, envelopes, CatalogEntry, consortium)
