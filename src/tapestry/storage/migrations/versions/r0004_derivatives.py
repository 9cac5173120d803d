"""What members show of their derivatives."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "derivatives",
        sa.Column("member", sa.String, primary_key=True),
        sa.Column("derivative", sa.String, primary_key=True),
        sa.Column("at", sa.String, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("derivatives")
