"""The account of a ledger, read from its lines: what was signed is opened, what holds is counted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tapestry.audit.file import Line
from tapestry.audit.verify import Verifier
from tapestry.errors import FormatError
from tapestry.governance.accounting import NAMES_CONTRIBUTION, Account, Fold, Row
from tapestry.governance.disputes import Dispute
from tapestry.identity.envelope import Envelope


@dataclass(frozen=True, kw_only=True)
class Disputed:
    """A dispute, with its place in the ledger."""

    sequence: int
    at: str
    said: Dispute


def read(
    lines: Iterable[Line],
    *,
    on_row: Callable[[Row], object] = lambda _: None,
    only: str | None = None,
    verify: bool = True,
    told: Callable[[int], None] = lambda _: None,
) -> Account:
    """The account of a ledger.

    Args:
        on_row: hears of each member in each round.
        only: a run, where the others are not asked for.
        verify: whether every entry is held against the rules; a node has done that with its own copy.
        told: hears of every entry that holds.

    Raises:
        IntegrityError: the ledger does not hold.
    """
    fold = Fold(on_row, only=only)
    if verify:
        Verifier(told).take(_counted(lines, fold))
        return fold.account()
    try:
        for _ in _counted(lines, fold):
            pass
        return fold.account()
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise FormatError(
            "this ledger is not as the rules give it", hint="verify it: tapestry ledger verify"
        ) from e


def _counted(lines: Iterable[Line], fold: Fold) -> Iterator[Line]:
    """The same lines. What goes on behind one was told that it holds."""
    envelope = b""
    for line in lines:
        yield line
        kind, value = line
        if kind == "blob":
            envelope = value
        elif kind == "entry":
            said = said_in(envelope) if envelope and value.type in NAMES_CONTRIBUTION else None
            fold.take(value, said)
            envelope = b""


def said_in(envelope: bytes) -> dict[str, Any]:
    """The contribution in an envelope that was verified. Raises `FormatError`."""
    try:
        found = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise FormatError(f"a contribution in the ledger cannot be read: {e}") from e
    if not isinstance(found, dict):
        raise FormatError("a contribution in the ledger is none")
    return found


def disputes(account: Account) -> list[Disputed]:
    """All that was disputed, in the ledger's order."""
    found = []
    for entry in account.disputes:
        said = Envelope.from_bytes(entry.body["envelope"].encode()).unverified(Dispute)
        found.append(Disputed(sequence=entry.sequence, at=entry.at, said=said))
    return found
