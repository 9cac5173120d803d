"""Event log, snapshots, invitations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


# SQLite's INTEGER has 64 bits, PostgreSQL's has 32.
Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

SQLITE = (
    *(
        f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
        "BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "CREATE TRIGGER events_in_sequence BEFORE INSERT ON events "
    "WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM events) "
    "BEGIN SELECT RAISE(ABORT, 'the event log has no gaps and is append-only'); END",
)
POSTGRESQL = (
    "CREATE FUNCTION events_guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP <> 'INSERT' THEN RAISE EXCEPTION 'the event log is append-only'; END IF; "
    "IF NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM events) THEN "
    "RAISE EXCEPTION 'the event log has no gaps and is append-only'; END IF; "
    "RETURN NEW; END $$",
    "CREATE TRIGGER events_guard BEFORE INSERT OR UPDATE OR DELETE ON events "
    "FOR EACH ROW EXECUTE FUNCTION events_guard()",
    "CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON events "
    "FOR EACH STATEMENT EXECUTE FUNCTION events_guard()",
)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("round", Integer),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    op.create_index("events_of_round", "events", ["scope", "round", "sequence"])
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
    op.create_table(
        "snapshots",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("sequence", Integer, sa.ForeignKey("events.sequence"), nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("token", sa.String, primary_key=True),
        sa.Column("member", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("used_at", sa.String),
    )
