"""Counts of stage times and refusals in the ledger's database, in a table of their own that is made when missing."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import sqlalchemy as sa

from tenant_middleware.backends.sql.store import SqlStore, make_tables
from tenant_middleware.metering.observations import Observed

_METADATA = sa.MetaData()
_CHUNK = 1_000
TABLE = sa.Table(
    "tenant_observations",
    _METADATA,
    sa.Column("window", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tenant_id", sa.String(128), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("times", sa.BigInteger, nullable=False),
)


class SqlObservations(SqlStore):
    """An ObservationStore behind the ledger's SQLAlchemy URL; several workers add to the same counts."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        super().__init__(url, timeout, lambda engine: make_tables(engine, _METADATA))
        fresh = self._insert_into(TABLE)
        self._add = fresh.on_conflict_do_update(
            index_elements=[*TABLE.primary_key.columns], set_={"times": TABLE.c.times + fresh.excluded.times}
        )

    def add(self, rows: Sequence[Observed]) -> None:
        # Sorted, so that two workers take their locks in one order.
        values = [row._asdict() for row in sorted(rows, key=itemgetter(0, 1, 2, 3))]
        with self._transaction() as connection:
            for start in range(0, len(values), _CHUNK):
                connection.execute(self._add, values[start : start + _CHUNK])

    def read(
        self, *, since: float | None = None, until: float | None = None, tenant_id: str | None = None
    ) -> list[Observed]:
        query = sa.select(*TABLE.c).order_by(*TABLE.primary_key.columns)
        if since is not None:
            query = query.where(TABLE.c.window >= since)
        if until is not None:
            query = query.where(TABLE.c.window < until)
        if tenant_id is not None:
            query = query.where(TABLE.c.tenant_id == tenant_id)
        with self._transaction() as connection:
            return [Observed(*row) for row in connection.execute(query)]

    def prune(self, before: float) -> int:
        with self._transaction() as connection:
            return connection.execute(sa.delete(TABLE).where(TABLE.c.window < before)).rowcount

    def forget(self, tenant_id: str) -> int:
        """Delete a tenant's counts; returns how many rows that were."""
        with self._transaction() as connection:
            return connection.execute(sa.delete(TABLE).where(TABLE.c.tenant_id == tenant_id)).rowcount
