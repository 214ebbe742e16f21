"""SQLite or Postgres: the ledger, and in its database the observations and who is suspended."""

from __future__ import annotations

from tenant_middleware.backends.sql.ledger import SqlLedger

__all__ = ["SqlLedger"]
