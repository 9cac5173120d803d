"""Another history of the ledger than this node's: a proof that the core has signed both, or that it was set
up again, under another key, from nodes that had seen less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tapestry.audit import file, fork
from tapestry.audit.verify import Verifier
from tapestry.errors import Fork, FormatError, IntegrityError, TapestryError
from tapestry.ledger.entries import Entry
from tapestry.transport.client import CoreClient

SUCCEEDED: Final = "core-succeeded"


def everything(client: CoreClient) -> list[file.Line]:
    """All the core gives, not verified: its lines, and the head it has signed of them last."""
    found: list[file.Line] = []
    size = 0
    while True:
        lines = list(file.parse(client.ledger(after=size)))
        more = entries_of(lines)
        if not more or any(each.sequence != at for at, each in enumerate(more, start=size + 1)):
            raise FormatError("the core gives no ledger")  # or the same part of it for ever
        size += len(more)
        found += lines
        if lines[-1][0] == "checkpoint":
            return found


def entries_of(lines: Iterable[file.Line]) -> list[Entry]:
    return [value for kind, value in lines if kind == "entry"]


def proof(tries: Iterable[tuple[Sequence[Entry], str]], seen: str | None) -> fork.ForkProof | None:
    """Between `seen` and the first head of entries that contradicts it; None where none of them does."""
    for known, head in tries:
        if known and head and seen and head != seen:
            try:
                return fork.prove(known, head, seen)
            except IntegrityError:
                continue
    return None


def recovered_without(lines: Sequence[file.Line], own: Verifier, folder: Path) -> Fork | None:
    """Where a ledger holds in itself, and goes on under a key of the core that this node's knows nothing of,
    from before its end: what has happened. Nobody has lied then.

    Args:
        lines: all of that ledger.
        own: where the verification of this node's ledger stands.
        folder: where that is kept.
    """
    known = {each.key for each in own.ring.successions}
    if all(each.type != SUCCEEDED or each.body.get("core_key") in known for each in entries_of(lines)):
        return None
    theirs = Verifier()
    try:
        theirs.take(lines)
    except TapestryError:
        return None
    if theirs.found.consortium != own.found.consortium or theirs.key_at() == own.key_at():
        return None
    common, end = 0, min(own.found.entries, theirs.found.entries) + 1
    while end - common > 1:
        middle = (common + end) // 2
        common, end = (middle, end) if own.root(middle) == theirs.root(middle) else (common, middle)
    if common == own.found.entries:
        return None
    return Fork(
        f"the core was recovered under another key, from nodes that had seen {common} entries of its "
        f"ledger: this node has {own.found.entries}, of which the new one lacks the last "
        f"{own.found.entries - common}",
        hint="nothing is trained meanwhile. Ask its operator to recover it anew, this node's folder among "
        "--from (tapestry core recover): that goes while no other node has followed the new one. Else keep a "
        f"copy of {folder} and move it away: the node then follows the new core, without what it alone saw",
    )
