"""The one way to change state: events and the snapshot after them, in one transaction.

The log has scopes: `consortium` (members and keys) and one per run. Each scope's state is the fold of
its events, kept as a snapshot beside the newest of them. Several processes may write: `core serve` and
the operator's commands each see what the other did by the sequence of the snapshot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from sqlalchemy.engine import Connection

from tapestry.core.clock import Clock, now_ms
from tapestry.errors import NotFound, StoreError, TapestryError
from tapestry.governance.state import Assembly
from tapestry.host import failpoints
from tapestry.ledger import tree
from tapestry.ledger.entries import CONSORTIUM, Entry, consortium_event, make_entry
from tapestry.protocol import canonical
from tapestry.protocol.clock import time_text
from tapestry.protocol.message import Part
from tapestry.rounds.events import ScorePublished, parse_event
from tapestry.rounds.state import RunState
from tapestry.storage import events as log
from tapestry.storage.database import Database

S = TypeVar("S")
Prove = Callable[[int, int, tree.Nodes], tuple[bytes, ...]]
MAX_SNAPSHOT_BYTES: Final = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Scope(Generic[S]):
    """A part of the log with a state of its own."""

    name: str
    decode: Callable[[bytes], S]
    encode: Callable[[S], bytes]


def _decode_assembly(data: bytes) -> Assembly:
    return Assembly.from_json(canonical.decode(data, what="consortium", max_bytes=MAX_SNAPSHOT_BYTES))


def _encode_assembly(assembly: Assembly) -> bytes:
    return canonical.encode(assembly.to_json())


ASSEMBLY: Final = Scope[Assembly](name=CONSORTIUM, decode=_decode_assembly, encode=_encode_assembly)
"""Members, keys and decisions."""


def run_scope(run: str) -> Scope[RunState]:
    return Scope(name=run, decode=RunState.from_bytes, encode=RunState.to_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing(Generic[S]):
    """A state, and the sequence of the event that led to it."""

    sequence: int
    state: S


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Where and when a decision is taken: inside its transaction, by the core's clock."""

    connection: Connection
    now_ms: int
    sequence: int
    """What the first event will get."""

    @property
    def at(self) -> str:
        return time_text(self.now_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision(Generic[S]):
    """What becomes of a state. A `refusal` is raised once the events that record it are committed."""

    state: S
    events: tuple[Part, ...]
    refusal: TapestryError | None = None


class _Overdue(Exception):
    """A deadline has passed that must be recorded first."""


class Journal:
    """Event log and states of one core. Safe to use from several threads."""

    def __init__(self, database: Database, *, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[str, Standing[Any]] = {}
        self._tree = (0, tree.EMPTY)
        """The head that was asked for last."""
        self.listener: Callable[[str, int], None] | None = None
        """Told of each scope this process changed, after the commit, from the thread that did it."""
        self.settle: Callable[[], None] | None = None
        """Records every decision that is overdue; called before anything else is recorded."""

    def now_ms(self) -> int:
        return self._clock()

    def apply(
        self, scope: Scope[S], decide: Callable[[Moment, Standing[S] | None], Decision[S]]
    ) -> Standing[S]:
        """Take one decision on the newest state, and record it.

        Args:
            scope: whose state it is.
            decide: gets the moment and the state (None in an empty scope). What it raises leaves
                everything as it was, rows it wrote itself included.

        Returns:
            the state afterwards; as it was where nothing happened.
        """
        while True:
            try:
                return self._apply(scope, decide, settling=self.settle is None)
            except _Overdue:
                if self.settle is not None:
                    self.settle()

    def assembly(self, moment: Moment) -> Assembly:
        """Members, keys and decisions, inside the transaction of a decision on another scope."""
        standing = self._load(moment.connection, ASSEMBLY)
        return standing.state if standing is not None else Assembly()

    def apply_settling(
        self, decide: Callable[[Moment, Standing[Assembly] | None], Decision[Assembly]]
    ) -> None:
        """`apply` for what is overdue itself."""
        self._apply(ASSEMBLY, decide, settling=True)

    def _apply(
        self,
        scope: Scope[S],
        decide: Callable[[Moment, Standing[S] | None], Decision[S]],
        *,
        settling: bool,
    ) -> Standing[S]:
        with self._database.transaction() as connection:
            standing = self._load(connection, scope)
            moment = Moment(connection=connection, now_ms=self._clock(), sequence=log.head(connection) + 1)
            if not settling and self.assembly(moment).governance.overdue(moment.at) is not None:
                raise _Overdue
            decision = decide(moment, standing)
            if decision.events:
                records = [
                    _record(make_entry(moment.sequence + i, moment.at, scope.name, event), event)
                    for i, event in enumerate(decision.events)
                ]
                log.append(connection, records, scope.encode(decision.state))
                failpoints.reach("core.event.before-commit")
        if decision.events:
            failpoints.reach("core.event.after-commit")
            standing = Standing(sequence=records[-1].sequence, state=decision.state)
            self._remember(scope, standing)
            if self.listener is not None:
                self.listener(scope.name, standing.sequence)
        if decision.refusal is not None:
            raise decision.refusal
        if standing is None:
            raise NotFound(f"nothing is recorded of {scope.name}")
        return standing

    def adopt(self, entries: Sequence[Entry], state_of: Callable[[str], bytes]) -> None:
        """Take in entries of one scope that another copy of this ledger has, behind its own, as they are.

        Args:
            entries: verified, and next after the newest here.
            state_of: the snapshot of the scope after them.
        """
        with self._database.transaction() as connection:
            head = log.head(connection)
            if not entries or entries[0].sequence != head + 1:
                raise StoreError(f"the event log has {head} entries; others do not follow them")
            records = [_record_of(entry) for entry in entries]
            log.append(connection, records, state_of(entries[-1].scope))

    def read(self, scope: Scope[S]) -> Standing[S] | None:
        """The newest state of a scope; None where it has no events."""
        with self._database.reading() as connection:
            return self._load(connection, scope)

    def sequences(self) -> dict[str, int]:
        """Every scope, with the sequence of its newest event."""
        with self._database.reading() as connection:
            return log.sequences(connection)

    def entries(self, after: int, *, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Entries after a sequence as their canonical bytes, and the newest sequence of all."""
        with self._database.reading() as connection:
            records = log.after(connection, after, limit=limit, max_bytes=max_bytes)
            return [record.entry for record in records], log.head(connection)

    def of_round(self, run: str, round: int, *types: str) -> list[Entry]:
        """Entries of one round (for scores: of one number of merges), oldest first."""
        with self._database.reading() as connection:
            return [Entry.from_bytes(r.entry) for r in log.of_round(connection, run, round, *types)]

    def tree_head(self) -> tuple[int, bytes]:
        """Leaves and root of the log's Merkle tree, of one moment."""
        with self._database.reading() as connection:
            size = log.head(connection)
            known = self._tree
            if size != known[0]:  # the tree of so many leaves never changes, and every node asks for it
                known = self._tree = (size, tree.root(size, log.nodes(connection)))
            return known

    def tree_root(self, size: int) -> bytes:
        """Of the first `size` entries. Raises `NotFound` where there are fewer."""
        with self._database.reading() as connection:
            if size > (head := log.head(connection)):
                raise NotFound(f"the ledger has {head} entries, not {size}")
            return tree.root(size, log.nodes(connection))

    def inclusion(self, sequence: int, size: int) -> tuple[bytes, ...]:
        """That an entry is in the tree of `size` leaves. Raises `NotFound` where it cannot be."""
        return self._proof(tree.inclusion_proof, sequence - 1, size)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """That the tree of `new` leaves begins with that of `old`. Raises `NotFound` where that cannot be."""
        return self._proof(tree.consistency_proof, old, new)

    def _proof(self, prove: Prove, first: int, size: int) -> tuple[bytes, ...]:
        with self._database.reading() as connection:
            if size > (head := log.head(connection)):
                raise NotFound(f"the ledger has {head} entries, not {size}")
            try:
                return prove(first, size, log.nodes(connection))
            except IndexError as e:
                raise NotFound(str(e)) from e

    def genesis(self) -> Entry:
        """The first entry. Raises `StoreError` in an empty log."""
        with self._database.reading() as connection:
            first = log.first(connection)
        if first is None:
            raise StoreError("the event log is empty", hint="run: tapestry core init")
        return Entry.from_bytes(first.entry)

    def _load(self, connection: Connection, scope: Scope[S]) -> Standing[S] | None:
        sequence = log.sequence(connection, scope.name)
        if sequence is None:
            return None
        with self._lock:
            cached: Standing[S] | None = self._cache.get(scope.name)
        if cached is not None and cached.sequence == sequence:
            return cached
        snapshot = log.snapshot(connection, scope.name)
        if snapshot is None:
            return None
        standing = Standing(sequence=snapshot.sequence, state=scope.decode(snapshot.state))
        self._remember(scope, standing)
        return standing

    def _remember(self, scope: Scope[S], standing: Standing[S]) -> None:
        with self._lock:
            cached = self._cache.get(scope.name)
            if cached is None or cached.sequence < standing.sequence:
                self._cache[scope.name] = standing


def _record_of(entry: Entry) -> log.Record:
    of_run = entry.scope != CONSORTIUM
    return _record(entry, parse_event(entry.type, entry.body) if of_run else consortium_event(entry))


def _record(entry: Entry, event: Part) -> log.Record:
    key = event.merges if isinstance(event, ScorePublished) else getattr(event, "round", None)
    data = entry.to_bytes()
    return log.Record(
        sequence=entry.sequence,
        at=entry.at,
        scope=entry.scope,
        type=entry.type,
        round=key,
        digest=canonical.sha256(data),
        entry=data,
    )
