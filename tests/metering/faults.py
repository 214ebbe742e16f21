"""What happens to the ledger's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from tenant_middleware.backends.sql import SqlLedger


@contextmanager
def full(ledger: SqlLedger) -> Iterator[None]:
    """A SQLite file that may not grow by another page."""
    with ledger._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def small(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(ledger._engine, "connect", small)
    ledger._engine.dispose()
    try:
        yield
    finally:
        sa.event.remove(ledger._engine, "connect", small)
        ledger._engine.dispose()
