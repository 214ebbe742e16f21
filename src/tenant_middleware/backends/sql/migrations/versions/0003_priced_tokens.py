"""Every count that has a price of its own, and each model's share, so that a row's cost can be worked out again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    count = sa.BigInteger
    op.add_column("tenant_ledger", sa.Column("cache_write_tokens", count, nullable=False, server_default="0"))
    op.add_column("tenant_ledger", sa.Column("cache_write_1h_tokens", count, nullable=False, server_default="0"))
    op.add_column("tenant_ledger", sa.Column("media_tokens", sa.Text, nullable=False, server_default=""))
    op.add_column("tenant_ledger", sa.Column("by_model", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    for name in ("by_model", "media_tokens", "cache_write_1h_tokens", "cache_write_tokens"):
        op.drop_column("tenant_ledger", name)
