"""The books of one process, in a dictionary: the reference for every other Ledger."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import overload

from tenant_middleware.metering.ledger import By, LedgerRow, Totals, split


class InMemoryLedger:
    """A Ledger that forgets when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], LedgerRow] = {}

    def write(self, rows: Iterable[LedgerRow]) -> int:
        with self._lock:
            before = len(self._rows)
            for row in rows:
                self._rows.setdefault((row.tenant_id, row.call_id), row)
            return len(self._rows) - before

    @overload
    def totals(
        self, by: None = None, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Totals: ...
    @overload
    def totals(
        self, by: By, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> dict[str, Totals]: ...
    def totals(
        self,
        by: By | None = None,
        *,
        tenant_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Totals | dict[str, Totals]:
        sums: dict[str, Totals] = {}
        rows = self.rows(tenant_id=tenant_id, since=since, until=until)
        for row in split(rows) if by == "model" else rows:
            name = "" if by is None else _name(row, by)
            sums[name] = sums.get(name, Totals()) + Totals.of(row)
        return sums.get("", Totals()) if by is None else sums

    def rows(
        self, *, tenant_id: str | None = None, since: float | None = None, until: float | None = None
    ) -> Sequence[LedgerRow]:
        with self._lock:
            rows = list(self._rows.values())
        found = [
            row
            for row in rows
            if (tenant_id is None or row.tenant_id == tenant_id)
            and (since is None or row.at >= since)
            and (until is None or row.at < until)
        ]
        return sorted(found, key=lambda row: (row.at, row.tenant_id, row.call_id))

    def spent_nano(self, tenant_id: str, *, since: float) -> int:
        return sum(row.cost_nano for row in self.rows(tenant_id=tenant_id) if row.began >= since)

    def close(self) -> None:
        """Nothing to close."""


def _name(row: LedgerRow, by: By) -> str:
    if by == "tenant":
        return row.tenant_id
    return row.subject or "" if by == "subject" else str(getattr(row, by))
