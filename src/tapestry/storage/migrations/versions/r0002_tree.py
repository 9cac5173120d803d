"""The Merkle tree over the event log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tapestry.storage.events import regrow

revision = "0002"
down_revision = "0001"

# SQLite's INTEGER has 64 bits, PostgreSQL's has 32.
Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "leaves",
        sa.Column(
            "sequence", Integer, sa.ForeignKey("events.sequence"), primary_key=True, autoincrement=False
        ),
        sa.Column("nodes", sa.LargeBinary, nullable=False),
    )
    regrow(op.get_bind())


def downgrade() -> None:
    op.drop_table("leaves")
