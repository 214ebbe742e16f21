"""The ledger: one row per logical call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    count = sa.BigInteger
    op.create_table(
        "tenant_ledger",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("call_id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("tier", sa.String(128), nullable=False),
        sa.Column("subject", sa.String(256)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("prompt_tokens", count, nullable=False),
        sa.Column("cached_tokens", count, nullable=False),
        sa.Column("completion_tokens", count, nullable=False),
        sa.Column("reasoning_tokens", count, nullable=False),
        sa.Column("cost_nano", count, nullable=False),
        sa.Column("price_source", sa.Text, nullable=False),
        sa.Column("price_as_of", sa.String(32), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempt_ids", sa.Text, nullable=False),
        sa.Column("latency", sa.Float(53), nullable=False),
        sa.Column("queue_wait", sa.Float(53), nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
    )
    op.create_index("ix_tenant_ledger_at", "tenant_ledger", ["at"])
    op.create_index("ix_tenant_ledger_tenant_at", "tenant_ledger", ["tenant_id", "at"])


def downgrade() -> None:
    op.drop_table("tenant_ledger")
