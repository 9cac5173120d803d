"""The event log's Merkle tree, kept beside it in the database."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tapestry.errors import NotFound, StoreError
from tapestry.ledger import tree
from tapestry.storage import database, events, migrate
from tapestry.storage.database import Database


def record(sequence: int) -> events.Record:
    return events.Record(
        sequence=sequence, at="now", scope="s", type="t", round=None, digest="", entry=b"entry %d" % sequence
    )


@pytest.fixture
def opened(tmp_path: Path) -> Database:
    return Database.open(tmp_path / "core.db", create=True)


def fill(opened: Database, *batches: int) -> None:
    """Transactions of so many events each."""
    at = 0
    for batch in batches:
        with opened.transaction() as connection:
            events.append(connection, [record(at + 1 + n) for n in range(batch)], b"state")
        at += batch


def expected(size: int) -> bytes:
    """By the definition, from all entries."""
    level = [tree.leaf_hash(b"entry %d" % (n + 1)) for n in range(size)]
    while len(level) > 1:
        pairs = [tree.node_hash(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0] if level else tree.EMPTY


def test_every_prefix_has_its_root(opened: Database) -> None:
    fill(opened, 1, 2, 3, 5, 8, 14)
    with opened.reading() as connection:
        nodes = events.nodes(connection)
        assert [tree.root(size, nodes) for size in range(34)] == [expected(size) for size in range(34)]


def test_an_undone_transaction_leaves_no_leaf(opened: Database) -> None:
    fill(opened, 3)
    with pytest.raises(RuntimeError), opened.transaction() as connection:
        events.append(connection, [record(4)], b"state")
        raise RuntimeError
    with opened.reading() as connection:
        assert tree.root(3, events.nodes(connection)) == expected(3)
        with pytest.raises(StoreError, match="lacks the subtree"):
            tree.root(4, events.nodes(connection))


def test_a_log_from_before_the_tree_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "core.db"
    monkeypatch.setattr(database, "SCHEMA", "0001")
    monkeypatch.setattr(events, "GROW_BATCH", 4)
    from alembic import command

    old = Database.open(path, create=True)
    fill(old, 5, 6)
    with old.transaction() as connection:
        config = migrate.settings()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        assert not sa.inspect(connection).has_table("leaves")
    old.close()
    monkeypatch.setattr(database, "SCHEMA", "0002")
    opened = Database.open(path)
    with opened.reading() as connection:
        assert tree.root(11, events.nodes(connection)) == expected(11)
    opened.close()


def test_no_proof_beyond_the_log(opened: Database) -> None:
    from tapestry.core.journal import Journal

    fill(opened, 5)
    journal = Journal(opened)
    size, root = journal.tree_head()
    assert (size, root) == (5, expected(5))
    tree.check_inclusion(tree.leaf_hash(b"entry 2"), 1, 5, journal.inclusion(2, 5), root)
    tree.check_consistency(3, expected(3), 5, root, journal.consistency(3, 5))
    for wrong in ((lambda: journal.inclusion(6, 6)), (lambda: journal.inclusion(0, 5))):
        with pytest.raises(NotFound):
            wrong()
    with pytest.raises(NotFound, match="5 entries, not 9"):
        journal.consistency(3, 9)
