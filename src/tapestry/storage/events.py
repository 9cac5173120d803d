"""The event log and the snapshots that go with it: rows in, rows out; what they mean is not known here.

Every function works inside the caller's transaction, so an event, the snapshot after it and whatever
else changes with it are committed together or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
_NODES = sa.select(leaves.c.nodes).where(leaves.c.sequence == sa.bindparam("sequence"))
GROW_BATCH = 1000
_SEQUENCE = sa.select(snapshots.c.sequence).where(snapshots.c.scope == sa.bindparam("scope"))
"""Made once: it is asked with every request."""


def head(connection: Connection) -> int:
    """Sequence of the newest event; 0 in an empty log."""
    return int(
        connection.execute(sa.select(sa.func.coalesce(sa.func.max(events.c.sequence), 0))).scalar_one()
    )


def append(connection: Connection, records: Sequence[Record], state: bytes) -> None:
    """Append events of one scope, which follow the head without a gap, and the snapshot after them."""
    if not records:
        return
    last = records[-1]
    connection.execute(
        sa.insert(events),
        [{name: getattr(r, name) for name in _FIELDS} for r in records],
    )
    grow(connection, ((r.sequence, r.entry) for r in records))
    row = {"scope": last.scope, "sequence": last.sequence, "state": state}
    if (
        connection.execute(sa.update(snapshots).where(snapshots.c.scope == last.scope).values(row)).rowcount
        == 0
    ):
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
        connection.execute(sa.insert(leaves), rows)


def regrow(connection: Connection) -> None:
    """Make the tree anew from the events."""
    connection.execute(sa.delete(leaves))
    while True:
        done = connection.execute(sa.select(sa.func.coalesce(sa.func.max(leaves.c.sequence), 0))).scalar_one()
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
    query = sa.select(*_ALL).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
    for record in _records(connection, query):
        used += len(record.entry)
        if found and max_bytes is not None and used > max_bytes:
            break
        found.append(record)
    return found


def of_round(connection: Connection, scope: str, round: int, *types: str) -> list[Record]:
    """Events of one round, oldest first, of the given types."""
    query = (
        sa.select(*_ALL)
        .where(events.c.scope == scope, events.c.round == round, events.c.type.in_(types))
        .order_by(events.c.sequence)
    )
    return list(_records(connection, query))


def first(connection: Connection) -> Record | None:
    """The genesis entry."""
    return next(_records(connection, sa.select(*_ALL).where(events.c.sequence == 1)), None)


def snapshot(connection: Connection, scope: str) -> Snapshot | None:
    row = connection.execute(
        sa.select(snapshots.c.sequence, snapshots.c.state).where(snapshots.c.scope == scope)
    ).one_or_none()
    return None if row is None else Snapshot(scope=scope, sequence=row.sequence, state=row.state)


def sequences(connection: Connection) -> dict[str, int]:
    """All scopes with the sequence of their snapshot."""
    query = sa.select(snapshots.c.scope, snapshots.c.sequence)
    return {row.scope: row.sequence for row in connection.execute(query)}


def sequence(connection: Connection, scope: str) -> int | None:
    """Sequence of a scope's snapshot; None where it has none."""
    return connection.execute(_SEQUENCE, {"scope": scope}).scalar_one_or_none()


def _records(connection: Connection, query: sa.Select[tuple[object, ...]]) -> Iterator[Record]:
    for row in connection.execute(query):
        yield Record(**row._mapping)
