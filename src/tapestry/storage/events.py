"""The event log and the snapshots that go with it: rows in, rows out; what they mean is not known here.

Every function works inside the caller's transaction, so an event, the snapshot after it and whatever
else changes with it are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tapestry.errors import StoreError
from tapestry.ledger import tree
from tapestry.storage.database import events, leaves, snapshots


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One entry of the log as it is stored."""

    sequence: int
    at: str
    scope: str
    type: str
    round: int | None
    """The round it belongs to (for a score, the merges), to find it by."""
    digest: str
    entry: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """State of a scope after its newest event."""

    scope: str
    sequence: int
    state: bytes


_FIELDS = tuple(Record.__dataclass_fields__)
_ALL = tuple(events.c[name] for name in _FIELDS)
GROW_BATCH = 1000

# Made once: making a statement takes longer than running it, and they are asked with every request.
_NODES = sa.select(leaves.c.nodes).where(leaves.c.sequence == sa.bindparam("sequence"))
_HEAD = sa.select(sa.func.coalesce(sa.func.max(events.c.sequence), 0))
_GROWN = sa.select(sa.func.coalesce(sa.func.max(leaves.c.sequence), 0))
_SEQUENCE = sa.select(snapshots.c.sequence).where(snapshots.c.scope == sa.bindparam("scope"))
_SEQUENCES = sa.select(snapshots.c.scope, snapshots.c.sequence)
_SNAPSHOT = sa.select(snapshots.c.sequence, snapshots.c.state).where(
    snapshots.c.scope == sa.bindparam("scope")
)
_AFTER = (
    sa.select(*_ALL)
    .where(events.c.sequence > sa.bindparam("after"))
    .order_by(events.c.sequence)
    .limit(sa.bindparam("most"))
)
_OF_ROUND = (
    sa.select(*_ALL)
    .where(
        events.c.scope == sa.bindparam("scope"),
        events.c.round == sa.bindparam("round"),
        events.c.type.in_(sa.bindparam("types", expanding=True)),
    )
    .order_by(events.c.sequence)
)
_NEWEST = (
    sa.select(*_ALL)
    .where(events.c.type.in_(sa.bindparam("types", expanding=True)))
    .order_by(events.c.sequence.desc())
)
_FIRST = sa.select(*_ALL).where(events.c.sequence == 1)
_ADD = sa.insert(events)
_ADD_LEAVES = sa.insert(leaves)
_REPLACE = (
    sa.update(snapshots)
    .where(snapshots.c.scope == sa.bindparam("of"))
    .values(sequence=sa.bindparam("upto"), state=sa.bindparam("after"))
)


def head(connection: Connection) -> int:
    """Sequence of the newest event; 0 in an empty log."""
    return int(connection.execute(_HEAD).scalar_one())


def append(connection: Connection, records: Sequence[Record], state: bytes) -> None:
    """Append events of one scope, which follow the head without a gap, and the snapshot after them."""
    if not records:
        return
    last = records[-1]
    connection.execute(_ADD, [{name: getattr(r, name) for name in _FIELDS} for r in records])
    grow(connection, ((r.sequence, r.entry) for r in records))
    new = {"of": last.scope, "upto": last.sequence, "after": state}
    if connection.execute(_REPLACE, new).rowcount == 0:
        row = {"scope": last.scope, "sequence": last.sequence, "state": state}
        connection.execute(sa.insert(snapshots).values(row))


def grow(connection: Connection, entries: Iterable[tuple[int, bytes]]) -> None:
    """Add entries, by sequence and without a gap, to the Merkle tree."""
    known = nodes(connection)
    fresh: dict[tuple[int, int], bytes] = {}

    def look(level: int, index: int) -> bytes:
        return fresh.get((level, index)) or known(level, index)

    rows = []
    for sequence, entry in entries:
        made = list(tree.new_nodes(sequence - 1, tree.leaf_hash(entry), look))
        fresh.update({(level, index): found for level, index, found in made})
        rows.append({"sequence": sequence, "nodes": b"".join(found for *_, found in made)})
    if rows:
        connection.execute(_ADD_LEAVES, rows)


def regrow(connection: Connection) -> None:
    """Make the tree anew from the events."""
    connection.execute(sa.delete(leaves))
    while True:
        done = connection.execute(_GROWN).scalar_one()
        batch = after(connection, int(done), limit=GROW_BATCH)
        if not batch:
            return
        grow(connection, ((record.sequence, record.entry) for record in batch))


def nodes(connection: Connection) -> tree.Nodes:
    """The tree's complete subtrees, by level and index. They raise `StoreError` where one lacks."""

    def look(level: int, index: int) -> bytes:
        last, start = (index + 1) << level, level * tree.HASH_BYTES
        found = connection.execute(_NODES, {"sequence": last}).scalar_one_or_none()
        if found is None or len(found) < start + tree.HASH_BYTES:
            raise StoreError(
                f"the ledger's tree lacks the subtree of level {level} that ends with event {last}"
            )
        return bytes(found[start : start + tree.HASH_BYTES])

    return look


def after(connection: Connection, sequence: int, *, limit: int, max_bytes: int | None = None) -> list[Record]:
    """Events after `sequence`, oldest first: at most `limit`, and no more than fit `max_bytes`, but one."""
    found: list[Record] = []
    used = 0
    for record in _records(connection, _AFTER, {"after": sequence, "most": limit}):
        used += len(record.entry)
        if found and max_bytes is not None and used > max_bytes:
            break
        found.append(record)
    return found


def of_round(connection: Connection, scope: str, round: int, *types: str) -> list[Record]:
    """Events of one round, oldest first, of the given types."""
    return list(_records(connection, _OF_ROUND, {"scope": scope, "round": round, "types": types}))


def newest(connection: Connection, *types: str) -> Iterator[Record]:
    """Events of the given types, newest first, read as they are asked for."""
    with connection.execute(_NEWEST, {"types": types}, execution_options={"yield_per": 100}) as rows:
        for row in rows:
            yield Record(**dict(zip(_FIELDS, row, strict=True)))


def first(connection: Connection) -> Record | None:
    """The genesis entry."""
    return next(_records(connection, _FIRST, {}), None)


def snapshot(connection: Connection, scope: str) -> Snapshot | None:
    row = connection.execute(_SNAPSHOT, {"scope": scope}).one_or_none()
    return None if row is None else Snapshot(scope=scope, sequence=row.sequence, state=row.state)


def sequences(connection: Connection) -> dict[str, int]:
    """All scopes with the sequence of their snapshot."""
    return {row.scope: row.sequence for row in connection.execute(_SEQUENCES)}


def sequence(connection: Connection, scope: str) -> int | None:
    """Sequence of a scope's snapshot; None where it has none."""
    return connection.execute(_SEQUENCE, {"scope": scope}).scalar_one_or_none()


def _records(connection: Connection, query: sa.Select[Any], given: Mapping[str, object]) -> Iterator[Record]:
    for sequence, at, scope, type_, round_, digest, entry in connection.execute(query, given):
        yield Record(
            sequence=sequence, at=at, scope=scope, type=type_, round=round_, digest=digest, entry=entry
        )
