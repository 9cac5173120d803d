"""`tapestry run recompute`: repeat merges from plan and contributions, and compare the states.

`replay.repeat` does the work. `MergeMismatch` is left to the caller: a table of all rounds says more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tapestry.errors import NotFound, TapestryError
from tapestry.identity.envelope import Envelope, contents
from tapestry.protocol import canonical
from tapestry.protocol.messages import Contribution
from tapestry.protocol.plan import Plan
from tapestry.protocol.views import RoundRecord
from tapestry.rounds.records import Ended, check_merged

if TYPE_CHECKING:
    from tapestry.replay.repeat import Repeater
    from tapestry.storage.blobs import BlobStore

Verdict = Literal["same", "differs", "gone"]


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """One round, repeated."""

    round: int
    contributions: int
    recorded: str
    """State after the round, as the log has it."""
    computed: str | None
    """State this machine computed; None where it could not."""
    verdict: Verdict
    seconds: float
    note: str = ""


def check_envelopes(record: RoundRecord) -> None:
    """Raise `NotFound` unless each merged contribution is the very envelope the record carries."""
    digests = [canonical.sha256(Envelope.from_bytes(text.encode()).to_bytes()) for text in record.envelopes]
    if digests != [merged.contribution for merged in record.merged]:
        raise NotFound(
            f"the record of round {record.round} lacks a contribution's signed envelope",
            hint="take the record from another node, or from the core",
        )


def contradiction(record: RoundRecord, plan: Plan, known: Mapping[int, RoundRecord]) -> str | None:
    """What in a record contradicts its plan or its contributions, in words; None where nothing does.

    Bindings and weights; the signatures were judged when the core took them in and when nodes merged.

    Args:
        record: of a round.
        plan: that it names.
        known: all records there are, by round.

    Raises:
        NotFound: a late contribution is of a round before all of those.
    """
    said = contents(record.envelopes, Contribution)
    first = min(one.round for one in said)
    if first < record.round and first < min(known):
        raise NotFound(
            f"the record of round {first}, which a late contribution is of, is not here",
            hint="repeat it where that round is known: at the core, or a node that was there",
        )

    def earlier(number: int) -> Ended | None:
        if (found := known.get(number)) is None:
            return None
        return Ended(found.before, contents(found.envelopes, Contribution))

    try:
        check_merged(record, plan, said, earlier)
    except TapestryError as error:
        return error.message
    return None


def _repeat(
    store: BlobStore, repeater: Repeater, record: RoundRecord, known: Mapping[int, RoundRecord]
) -> Recomputed:
    began = time.monotonic()

    def result(verdict: Verdict, computed: str | None, note: str = "") -> Recomputed:
        return Recomputed(
            round=record.round,
            contributions=len(record.merged),
            recorded=record.after,
            computed=computed,
            verdict=verdict,
            seconds=time.monotonic() - began,
            note=note,
        )

    try:
        check_envelopes(record)
        plan = Plan.from_bytes(store.read(record.plan, Plan.MAX_BYTES))
        if fault := contradiction(record, plan, known):
            return result("differs", None, fault)
        done = repeater.merge(plan, before=record.before, contributions=record.merged)
    except NotFound as e:
        return result("gone", None, e.message)
    return result("same" if done.state == record.after else "differs", done.state)


def recompute(
    store: BlobStore,
    records: Iterable[RoundRecord],
    *,
    scratch_parent: Path,
    only: int | None = None,
    threads: int = 2,
    told: Callable[[Recomputed], None] = lambda _: None,
) -> list[Recomputed]:
    """Repeat each of `records`, the earliest first, or `only` that of one round; `told` hears of each as it
    is done.

    In that order no state is in the scratch folder before the merge that leads to it was repeated. A node
    keeps few states: where that before the one round is gone, the merges that lead to it are repeated too.
    """
    from tapestry.replay.repeat import Repeater

    found = []
    every = list(records)
    known = {record.round: record for record in every}
    with Repeater(store, parent=scratch_parent, threads=threads) as repeater:
        ordered = sorted(every, key=lambda record: record.round)
        for record in ordered:
            if only not in (None, record.round):
                continue
            one = _repeat(store, repeater, record, known)
            if only is not None and one.verdict == "gone":
                _lead_up(store, repeater, [each for each in ordered if each.round < only], known)
                one = _repeat(store, repeater, record, known)
            found.append(one)
            told(one)
    return found


def _lead_up(
    store: BlobStore, repeater: Repeater, earlier: list[RoundRecord], known: Mapping[int, RoundRecord]
) -> None:
    """Have the state after these: from the newest of them that can be repeated, each that follows."""
    for at in reversed(range(len(earlier))):
        if _repeat(store, repeater, earlier[at], known).verdict != "gone":
            for record in earlier[at + 1 :]:
                _repeat(store, repeater, record, known)
            return
