"""Alembic's environment: migrations run on the connection that the ledger hands over, or on -x url=... by hand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from tenant_middleware.backends.sql.schema import METADATA


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        version_table="tenant_ledger_version",
        render_as_batch=True,  # SQLite alters tables by copying them
        transactional_ddl=False,  # the caller's transaction is around all of it
    )
    context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    engine = sa.create_engine(context.get_x_argument(as_dictionary=True)["url"])
    with engine.begin() as own:
        _run(own)
    engine.dispose()
