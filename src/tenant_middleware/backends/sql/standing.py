"""Who is suspended, being exported or being erased: in the ledger's database, which all workers share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tenant_middleware.backends.sql.store import SqlStore, make_tables
from tenant_middleware.isolation.standing import Standing

_METADATA = sa.MetaData()
_SERVED = ("active", "guest")
TABLE = sa.Table(
    "tenant_standing",
    _METADATA,
    sa.Column("tenant_id", sa.String(128), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("since", sa.Float(53), nullable=False),
    sa.Column("exporting", sa.Float(53)),
    sa.Column("detail", sa.Text, nullable=False),
)
_STANDING = (TABLE.c.state, TABLE.c.since, TABLE.c.exporting, TABLE.c.detail)


class SqlStandings(SqlStore):
    """A StandingStore behind the ledger's SQLAlchemy URL."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        super().__init__(url, timeout, lambda engine: make_tables(engine, _METADATA))
        fresh = self._insert_into(TABLE)
        changed = {name: fresh.excluded[name] for name in ("state", "since", "detail")}
        self._put = fresh.on_conflict_do_update(index_elements=["tenant_id"], set_=changed)
        beaten = {"exporting": fresh.excluded.exporting}
        self._beat = fresh.on_conflict_do_update(index_elements=["tenant_id"], set_=beaten)

    def put(self, tenant_id: str, standing: Standing) -> None:
        row = {"tenant_id": tenant_id, **standing._asdict()}
        with self._transaction() as connection:
            connection.execute(self._put, row)

    def beat(self, tenant_id: str, at: float | None) -> None:
        row = {"tenant_id": tenant_id, **Standing("active", at or 0.0, at)._asdict()}
        with self._transaction() as connection:
            connection.execute(self._beat, row)

    def get(self, tenant_id: str) -> Standing | None:
        with self._transaction() as connection:
            row: Any = connection.execute(sa.select(*_STANDING).where(TABLE.c.tenant_id == tenant_id)).first()
        return None if row is None else Standing(*row)

    def barred(self) -> frozenset[str]:
        with self._transaction() as connection:
            found = connection.execute(sa.select(TABLE.c.tenant_id).where(TABLE.c.state.not_in(_SERVED)))
            return frozenset(row[0] for row in found)

    def guests(self) -> dict[str, Standing]:
        with self._transaction() as connection:
            found = connection.execute(sa.select(TABLE.c.tenant_id, *_STANDING).where(TABLE.c.state == "guest"))
            return {name: Standing(*standing) for name, *standing in found}

    def remove(self, tenant_id: str) -> None:
        with self._transaction() as connection:
            connection.execute(sa.delete(TABLE).where(TABLE.c.tenant_id == tenant_id))
