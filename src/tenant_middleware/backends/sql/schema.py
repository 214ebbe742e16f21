"""The ledger's table, and how a database gets it: made whole when new, migrated by Alembic when older."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from tenant_middleware.backends.sql.store import alone
from tenant_middleware.errors import ConfigurationError

METADATA = sa.MetaData()
# The revision in `migrations/versions` that ROWS describes; a test compares the two.
REVISION = "0003"

_COUNT = sa.BigInteger

ROWS = sa.Table(
    "tenant_ledger",
    METADATA,
    sa.Column("tenant_id", sa.String(128), primary_key=True),
    sa.Column("call_id", sa.String(64), primary_key=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("day", sa.String(10), nullable=False),
    sa.Column("tier", sa.String(128), nullable=False),
    sa.Column("subject", sa.String(256)),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("prompt_tokens", _COUNT, nullable=False),
    sa.Column("cached_tokens", _COUNT, nullable=False),
    sa.Column("completion_tokens", _COUNT, nullable=False),
    sa.Column("reasoning_tokens", _COUNT, nullable=False),
    sa.Column("cost_nano", _COUNT, nullable=False),
    sa.Column("price_source", sa.Text, nullable=False),
    sa.Column("price_as_of", sa.String(32), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("attempt_ids", sa.Text, nullable=False),
    sa.Column("latency", sa.Float(53), nullable=False),
    sa.Column("queue_wait", sa.Float(53), nullable=False),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("source", sa.String(16), nullable=False),
    sa.Column("cache_write_tokens", _COUNT, nullable=False, server_default="0"),
    sa.Column("cache_write_1h_tokens", _COUNT, nullable=False, server_default="0"),
    sa.Column("media_tokens", sa.Text, nullable=False, server_default=""),
    sa.Column("by_model", sa.Text, nullable=False, server_default=""),
    # When a billing sink took the row, in seconds since the epoch.
    sa.Column("billed_at", sa.Float(53)),
    sa.Index("ix_tenant_ledger_at", "at"),
    sa.Index("ix_tenant_ledger_tenant_at", "tenant_id", "at"),
)
_UNBILLED = ROWS.c.billed_at.is_(None)
sa.Index("ix_tenant_ledger_unbilled", ROWS.c.at, sqlite_where=_UNBILLED, postgresql_where=_UNBILLED)
_VERSION = sa.Table("tenant_ledger_version", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))


def bring_up_to_date(engine: sa.Engine) -> None:
    """Make or migrate the tables; several workers may open a new database at once.

    Raises ConfigurationError for a database that a newer version of this library has migrated.
    """
    with engine.connect() as connection:
        if _version(connection) == REVISION:
            return
    with engine.connect() as connection, connection.begin():
        alone(connection)
        found = _version(connection)
        if found is None:
            METADATA.create_all(connection)
            _VERSION.create(connection, checkfirst=True)
            connection.execute(_VERSION.insert().values(version_num=REVISION))
        elif found != REVISION:
            _upgrade(connection)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(_VERSION.name):
        return None
    return connection.execute(sa.select(_VERSION.c.version_num)).scalar()


def _upgrade(connection: sa.Connection) -> None:
    try:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "the ledger's tables are of an older version: pip install alembic to migrate"
        ) from error
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ConfigurationError(
            "the ledger's tables were migrated by a newer version of tenant_middleware: update this one"
        ) from error
