"""What the owner of a node is shown of it, from the node's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.errors import TapestryError

if TYPE_CHECKING:
    from tapestry.web.building import Building, CardInUse, Left


def building(home: Path) -> Building:
    """A node as it is now. Raises `SettingsError` for a folder that is no node's home."""
    from tapestry.node import settings
    from tapestry.node.approval import Approvals
    from tapestry.node.home import Home
    from tapestry.node.outbox import egress_table
    from tapestry.node.status import node_status
    from tapestry.web.building import Building, Waiting

    at = Home(home)
    given = settings.load(at)
    status = node_status(home)
    gate: dict[str, Any] = status["gate"]
    cards, trouble = _cards(home)
    return Building(
        home=str(home),
        member=given.node.member,
        node=given.node.name,
        running=status["running"],
        level=status["level"] if status["running"] and status["reads_text"] is not None else None,
        publish=given.node.publish,
        approve=given.node.approve,
        left=tuple(reversed([_left(line) for line in egress_table(at)])),
        waiting=tuple(
            Waiting(
                name=each.name,
                since=each.since,
                artifacts=len(each.artifacts),
                bytes=sum(one.bytes for one in each.artifacts),
                digest=each.subject,
            )
            for each in Approvals(at).pending()
        ),
        passed=gate["passed"] or 0,
        refused=gate["refused"] or 0,
        last_refused=str(gate["last_refused"].get("reason")) if gate["last_refused"] else None,
        canaries=gate["canaries"] or 0,
        cards=cards,
        cards_trouble=trouble,
        trouble=status["trouble"],
    )


def _left(line: dict[str, Any]) -> Left:
    from tapestry.web.building import Left

    return Left(
        time=float(line.get("time") or 0.0),
        kind=str(line.get("kind") or ""),
        name=line.get("name"),
        count=int(line.get("count") or 1),
        bytes=int(line.get("bytes") or 0),
        sha256=line.get("sha256"),
    )


def _cards(home: Path) -> tuple[tuple[CardInUse, ...], str | None]:
    from tapestry.training.shelf import Shelf
    from tapestry.training.withdrawals import Withdrawals
    from tapestry.web.building import CardInUse

    try:
        gone = {mark.dataset for mark in Withdrawals(home).marks()}
        cards = [each.card for each in Shelf.of_node(home).all()]
    except TapestryError as error:
        return (), error.message
    return tuple(
        CardInUse(
            name=card.name,
            category=card.category,
            languages=tuple(card.languages),
            licence=card.licence,
            documents=card.content.documents,
            bytes=card.content.bytes,
            stages=tuple(card.stages),
            withdrawn=card.name in gone,
        )
        for card in cards
    ), None
