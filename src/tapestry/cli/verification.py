"""A whole ledger verified, and its merges repeated where their blobs are at hand.

`audit` reads bytes and knows no tensor; `replay` repeats merges and knows no ledger. Here they meet: what the
one has found to hold is what the other repeats.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from tapestry.audit.verify import Found, Verifier
from tapestry.errors import ArtifactError, Diverged, HashMismatch, NotFound
from tapestry.protocol.canonical import Name, Sha256
from tapestry.protocol.message import Part
from tapestry.protocol.messages import Merged
from tapestry.rounds import events as ev

if TYPE_CHECKING:
    from tapestry.audit.file import Line
    from tapestry.ledger.entries import Entry
    from tapestry.protocol.plan import Plan
    from tapestry.replay.repeat import Repeater
    from tapestry.storage.blobs import BlobStore

GONE: Final = "their blobs are not here (any more)"
DAMAGED: Final = "a blob of theirs is damaged"
NO_BLOBS: Final = "no blobs are at hand"
NO_TORCH: Final = "torch is not installed"
NOT_ASKED: Final = "it was not asked for"
IN_MEMORY: Final = 1 << 20
"""Bytes of merges to be repeated that are not put into a file."""

Progress = Callable[[int, int], None]


class _Merge(Part):
    """A committed merge, with all that it was made of."""

    run: Name
    round: int
    plan: Sha256
    before: Sha256
    merged: tuple[Merged, ...]
    state: Sha256
    base: Sha256
    outer: Sha256 | None


@dataclass(frozen=True, kw_only=True)
class Differing:
    """A merge that does not come out as the ledger has it."""

    run: str
    round: int
    recorded: str
    computed: str | None
    """None where nothing came of it."""
    note: str = ""


@dataclass
class Repeated:
    """What came of repeating merges."""

    same: int = 0
    differing: list[Differing] = field(default_factory=list)
    skipped: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    """By run and why: rounds whose merge was not repeated."""

    def skip(self, merge: _Merge, why: str) -> None:
        self.skipped.setdefault((merge.run, why), []).append(merge.round)

    def to_json(self) -> dict[str, Any]:
        """Fields beside those of `Found`."""
        return {
            "merges_repeated": self.same,
            "merges_differing": [asdict(each) for each in self.differing],
            "merges_skipped": [
                {"run": run, "why": why, "rounds": rounds} for (run, why), rounds in self.skipped.items()
            ],
        }

    def told(self) -> Iterator[str]:
        """For people, a line each."""
        if self.same:
            yield f"{self.same:,} merges repeated, each the same to the bit"
        for (run, why), rounds in self.skipped.items():
            yield f"not repeated in run {run}: {_ranges(rounds)}: {why}"
        for each in self.differing:
            yield (
                f"round {each.round} of run {each.run} does not come out as recorded: state "
                f"{each.recorded[:12]} in the ledger, {each.note or str(each.computed)[:12]} here"
            )


def repeats_here() -> bool:
    """Whether this installation can repeat merges."""
    return all(find_spec(name) is not None for name in ("torch", "obstore"))


def verify(
    lines: Iterable[Line],
    store: BlobStore | None,
    *,
    unless: str = "",
    newest: int | None = None,
    told: Callable[[int], None] = lambda _: None,
    progress: Progress = lambda _done, _all: None,
) -> tuple[Found, Repeated]:
    """Verify all of a ledger; then repeat its merges.

    Args:
        lines: of the ledger.
        store: the blobs at hand, if there are any.
        unless: why no merge is to be repeated, if so.
        newest: only so many of them, the last.
        told: hears of every entry that holds.
        progress: told how many merges of how many are done.

    Raises:
        IntegrityError: the ledger does not hold. A merge that differs is no error here.
    """
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        spooled = _Spool()
        found = Verifier(told).take(spooled.watch(lines, spool.write))
        spool.seek(0)
        every = (_Merge.model_validate_json(line) for line in spool)
        repeated = Repeated()
        why = unless or (NO_BLOBS if store is None else "") or ("" if repeats_here() else NO_TORCH)
        if store is not None and not why and found.merges:
            skip = 0 if newest is None else max(0, found.merges - newest)
            _repeat(every, store, spooled.plans, repeated, skip, lambda done: progress(done, found.merges))
        else:
            for merge in every:
                repeated.skip(merge, why)
    return found, repeated


class _Spool:
    """Picks the committed merges out of a ledger that passes by; keeps those in memory that are under way."""

    def __init__(self) -> None:
        self.plans: dict[str, Plan] = {}
        """By digest."""
        self._opened: dict[tuple[str, int], ev.RoundOpened] = {}
        self._closed: dict[tuple[str, int], ev.RoundClosed] = {}

    def watch(self, lines: Iterable[Line], write: Callable[[bytes], object]) -> Iterator[Line]:
        """The same lines. What goes on behind a line was told that it holds."""
        for line in lines:
            yield line
            if line[0] == "entry" and (merge := self._merge(line[1])) is not None:
                write(merge.model_dump_json().encode() + b"\n")

    def _merge(self, entry: Entry) -> _Merge | None:
        if entry.type not in _OF_MERGES:
            return None
        event = ev.parse_event(entry.type, entry.body)
        match event:
            case ev.RunPlanned() | ev.PlanRevised():
                self.plans[event.plan.digest] = event.plan
            case ev.RoundOpened():
                self._opened[entry.scope, event.round] = event
            case ev.RoundClosed():
                self._closed[entry.scope, event.round] = event
            case ev.RoundAbandoned():
                self._opened.pop((entry.scope, event.round), None)
                self._closed.pop((entry.scope, event.round), None)
            case ev.RoundCommitted():
                opened = self._opened.pop((entry.scope, event.round))
                return _Merge(
                    run=entry.scope,
                    round=event.round,
                    plan=opened.plan,
                    before=opened.state,
                    merged=self._closed.pop((entry.scope, event.round)).merged,
                    state=event.state,
                    base=event.base,
                    outer=event.outer,
                )
        return None


_OF_MERGES: Final = {
    "run-planned",
    "plan-revised",
    "round-opened",
    "round-closed",
    "round-abandoned",
    "round-committed",
}


def _repeat(
    every: Iterable[_Merge],
    store: BlobStore,
    plans: dict[str, Plan],
    repeated: Repeated,
    skip: int,
    done: Callable[[int], None],
) -> None:
    """In the ledger's order; the first `skip` are left out."""
    from tapestry.replay.repeat import Repeater

    beside = store.root.parent
    parent = beside if os.access(beside, os.W_OK) else store.root
    with Repeater(store, parent=parent) as repeater:
        for number, merge in enumerate(every, start=1):
            if number <= skip:
                repeated.skip(merge, NOT_ASKED)
            else:
                _one(merge, plans[merge.plan], repeater, repeated)
            done(number)


def _one(merge: _Merge, plan: Plan, repeater: Repeater, repeated: Repeated) -> None:
    def differs(computed: str | None, note: str = "") -> None:
        repeated.differing.append(
            Differing(run=merge.run, round=merge.round, recorded=merge.state, computed=computed, note=note)
        )

    try:
        done = repeater.merge(plan, before=merge.before, contributions=merge.merged)
    except NotFound:
        repeated.skip(merge, GONE)
    except HashMismatch:
        repeated.skip(merge, DAMAGED)
    except (ArtifactError, Diverged) as e:  # such a merge cannot have been made
        differs(None, e.message)
    else:
        if done.state != merge.state:
            differs(done.state)
        elif (done.base, done.outer) != (merge.base, merge.outer):
            differs(done.state, "a state of another base or momentum than the ledger names")
        else:
            repeated.same += 1


def _ranges(rounds: list[int]) -> str:
    """Rounds 1 to 12, 15."""
    parts: list[list[int]] = []
    for each in sorted(rounds):
        if parts and parts[-1][-1] == each - 1:
            parts[-1] = [parts[-1][0], each]
        else:
            parts.append([each])
    text = ", ".join(" to ".join(map(str, part)) for part in parts)
    return f"round {text}" if len(rounds) == 1 else f"rounds {text}"
