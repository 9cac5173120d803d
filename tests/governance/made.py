"""Charters, members and ballots for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tapestry.governance.charter import Charter
from tapestry.governance.electorate import Standing
from tapestry.governance.tally import Ballot, Choice, Question
from tapestry.governance.words import KINDS, Kind
from tapestry.protocol.clock import add_seconds

OPENED = "2026-05-01T12:00:00.000Z"
NAMES = "abcdefghij"
USUAL: dict[str, Any] = {
    "approval": "more than 1/2",
    "quorum": "at least 1/2",
    "voting": "14 days",
}


def value(
    seats: Iterable[int] = (1, 1, 1, 1, 1),
    *,
    usual: dict[str, Any] | None = None,
    kinds: dict[Kind, dict[str, Any]] | None = None,
    **tables: dict[str, Any],
) -> dict[str, Any]:
    """What a charter is made from; members are a, b, c, …"""
    every = {**USUAL, **(usual or {})}
    seats = tuple(seats)
    names = list(NAMES[: len(seats)])
    weights = "seats" if any(each > 1 for each in seats) else "equal"
    made: dict[str, Any] = {
        "title": "Test",
        "revision": 1,
        "members": {name: {"seats": each} for name, each in zip(names, seats, strict=True)},
        "voting": {"weights": weights},
        "decisions": {kind: {**every, **(kinds or {}).get(kind, {})} for kind in KINDS},
        "contribution": {},
        "entitlements": {},
        "data": {},
        "public": {},
        "release": {"signatures": 2, "holders": tuple(names[:3])},
        "deadlines": {},
    }
    for table, fields in tables.items():
        made[table] = fields if table in ("members", "phases") else {**made[table], **fields}
        if table == "members" and any(each.get("seats", 1) > 1 for each in fields.values()):
            made["voting"]["weights"] = "seats"
    return made


def charter(seats: Iterable[int] = (1, 1, 1, 1, 1), **given: Any) -> Charter:
    return Charter.model_validate(value(seats, **given))


def standings(seats: Iterable[int], contributions: Iterable[int] | None = None) -> tuple[Standing, ...]:
    seats = tuple(seats)
    given = tuple(contributions or [0] * len(seats))
    return tuple(
        Standing(member=NAMES[at], seats=each, contribution=given[at]) for at, each in enumerate(seats)
    )


def question(kind: Kind = "ratify-plan", about: str | None = None) -> Question:
    return Question(kind=kind, about=about, opened=OPENED)


def ballots(choices: dict[str, Choice], *, after_s: float = 60.0) -> list[Ballot]:
    """One of each member named, in that order."""
    return [
        Ballot(member=member, choice=choice, at=add_seconds(OPENED, after_s), sequence=at)
        for at, (member, choice) in enumerate(choices.items(), start=1)
    ]
