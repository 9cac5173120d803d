"""Event log, snapshots, invitations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("round", sa.Integer),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )
    op.create_index("events_of_round", "events", ["scope", "round", "sequence"])
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events "
            "BEGIN SELECT RAISE(ABORT, 'the event log is append-only'); END"
        )
    op.execute(
        "CREATE TRIGGER events_in_sequence BEFORE INSERT ON events "
        "WHEN NEW.sequence <> (SELECT COALESCE(MAX(sequence), 0) + 1 FROM events) "
        "BEGIN SELECT RAISE(ABORT, 'the event log has no gaps and is append-only'); END"
    )
    op.create_table(
        "snapshots",
        sa.Column("scope", sa.String, primary_key=True),
        sa.Column("sequence", sa.Integer, sa.ForeignKey("events.sequence"), nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "invitations",
        sa.Column("token", sa.String, primary_key=True),
        sa.Column("member", sa.String, nullable=False),
        sa.Column("expires", sa.String, nullable=False),
        sa.Column("used_at", sa.String),
    )
