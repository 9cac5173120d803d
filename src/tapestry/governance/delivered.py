"""What members have delivered to runs, as far as the ledger shows: a fold over its entries.

The ledger has contributions with their tokens and steps, when a round began, and what a node says of its
machine. It has no hours, no bytes of text or disk, no money and no people: of these nothing is said here.

    delivered = Delivered()
    for entry, said in ...: delivered.take(entry, said)
    delivered.of(("pilot",)) -> {member: Work}

A small account of its own, which one of all that members did could take the place of.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from tapestry.ledger.entries import CONSORTIUM, Entry
from tapestry.protocol.messages import Contribution

HOUR_MS: Final = 3_600_000
MAX_RANKS: Final = 1_000_000
"""Of one node; one that says more would make the sum of all members mean nothing."""
HANDED: Final = ("contribution-received", "contribution-committed", "contribution-revealed")
NAMED: Final = ("contribution-received", "contribution-committed")
"""Entries behind the envelope of a contribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Of one member, in accepted contributions.

    Args:
        accelerator_ms: from the opening of the round that was trained to the receipt, once for each
            accelerator that the node says it has: the most it can have been. None where it names none.
    """

    contributions: int = 0
    tokens: int = 0
    steps: int = 0
    accelerator_ms: int | None = 0

    def __add__(self, other: Work) -> Work:
        known = self.accelerator_ms is not None and other.accelerator_ms is not None
        return Work(
            contributions=self.contributions + other.contributions,
            tokens=self.tokens + other.tokens,
            steps=self.steps + other.steps,
            accelerator_ms=(self.accelerator_ms or 0) + (other.accelerator_ms or 0) if known else None,
        )

    @property
    def accelerator_hours(self) -> float | None:
        return None if self.accelerator_ms is None else self.accelerator_ms / HOUR_MS


class Delivered:
    """The fold. Entries come in their order, each once; those of consortium do nothing."""

    def __init__(self) -> None:
        self.sequence = 0
        """Of the newest entry taken."""
        self._opened: dict[tuple[str, int, int], int] = {}
        self._handed: dict[tuple[str, str], tuple[str, Work]] = {}
        """By run and contribution: whose it is, until it is accepted or refused."""
        self._done: dict[tuple[str, str], Work] = {}
        """By run and member."""

    def take(self, entry: Entry, said: Contribution | None = None) -> None:
        """`said`: what the envelope says that an entry names, of those in `NAMED`."""
        self.sequence = entry.sequence
        if entry.scope == CONSORTIUM:
            return
        body, run = entry.body, entry.scope
        if entry.type == "round-opened":
            self._opened[run, body["round"], body["fragment"]] = body["opened_ms"]
        elif entry.type in HANDED:
            self._hand(run, body, said)
        elif entry.type == "contribution-accepted":
            member, work = self._handed.pop((run, body["contribution"]), ("", Work()))
            if member:
                self._done[run, member] = self._done.get((run, member), Work()) + work
        elif entry.type == "contribution-refused":
            self._handed.pop((run, body["contribution"]), None)

    def _hand(self, run: str, body: dict[str, Any], said: Contribution | None) -> None:
        name = (run, body["contribution"])
        if said is None:
            if name in self._handed:  # revealed: the word came before
                return
            spent = None
        else:
            opened, count = self._opened.get((run, said.round, said.fragment)), _accelerators(said)
            known = opened is not None and count is not None
            spent = (body["received_ms"] - (opened or 0)) * (count or 0) if known else None
        work = Work(
            contributions=1,
            tokens=body["tokens"],
            steps=body["steps"],
            accelerator_ms=None if spent is None else max(0, spent),
        )
        self._handed[name] = (body["member"], work)

    def of(self, runs: Collection[str]) -> dict[str, Work]:
        """What each member has delivered to these runs."""
        found: dict[str, Work] = {}
        for (run, member), work in self._done.items():
            if run in runs:
                found[member] = found[member] + work if member in found else work
        return found


def _accelerators(said: Contribution) -> int | None:
    """How many a node says it trained on; None also where that cannot be."""
    ranks = said.environment.get("ranks", "1")
    told = "accelerator" in said.environment and ranks.isascii() and ranks.isdigit()
    return int(ranks) if told and int(ranks) <= MAX_RANKS else None
