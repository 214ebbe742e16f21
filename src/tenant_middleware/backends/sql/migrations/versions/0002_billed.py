"""Which rows a billing sink has taken; those of earlier versions count as taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenant_ledger", sa.Column("billed_at", sa.Float(53)))
    op.execute("UPDATE tenant_ledger SET billed_at = 0")
    unbilled = sa.text("billed_at IS NULL")
    op.create_index(
        "ix_tenant_ledger_unbilled", "tenant_ledger", ["at"], sqlite_where=unbilled, postgresql_where=unbilled
    )


def downgrade() -> None:
    op.drop_index("ix_tenant_ledger_unbilled", "tenant_ledger")
    op.drop_column("tenant_ledger", "billed_at")
