"""Limits and budgets of one process: one lock, no await inside it, so that threads and tasks share every decision."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import get_args

from tenant_middleware.admission.period import span_at
from tenant_middleware.admission.store import Ask, Balance, Denied, Granted, Limits, Settlement
from tenant_middleware.backends.in_memory.account import Account, Books
from tenant_middleware.clock import Clock
from tenant_middleware.metering.ledger import Ledger, LedgerRow
from tenant_middleware.policy import Period
from tenant_middleware.tenant import Tenant

_KEEP = 64


class InMemoryAdmission:
    """An AdmissionStore for one process; `outbox` takes the rows of settled calls, before the money is swapped.

    Settled ids are refused for `marker_ttl` seconds at least. With a `ledger`, budgets begin with what it has booked
    for the running periods, so that a restart gives nobody a second budget.
    """

    in_process = True

    def __init__(
        self,
        clock: Clock,
        outbox: Callable[[LedgerRow], object] | None = None,
        *,
        ledger: Ledger | None = None,
        marker_ttl: float = 3600.0,
    ) -> None:
        self._time = clock.time
        self._outbox = outbox
        self._marker_ttl = marker_ttl
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        self._sweep_at, self._swept = _KEEP, clock.time()
        self._booked = {} if ledger is None else _booked(ledger, clock.time())

    def forget(self, tenant: Tenant) -> int:
        """Drop a tenant's account: for one that left."""
        with self._lock:
            return int(self._accounts.pop(tenant.id, None) is not None)

    def reserve(self, ask: Ask) -> Granted | Denied:
        with self._lock:
            now = self._time()
            account = self._accounts.get(ask[0].id) or self._open(ask[0], ask[2], now)
            return account.reserve(ask, now)

    def extend(self, ask: Ask) -> Granted | Denied:
        with self._lock:
            now = self._time()
            return self._account(ask.tenant, ask.limits, now).extend(ask, now)

    def settle(self, settlement: Settlement) -> bool:
        tenant, call_id, _, tokens, nano, row = settlement
        with self._lock:
            account = self._accounts.get(tenant.id)
            held = None if account is None else account.held.get(call_id)
            if account is None or held is None:
                return self._settle_late(settlement)
            if row is not None and self._outbox is not None:
                self._outbox(row)  # when it refuses, nothing is settled yet and a retry starts clean
            if tokens > held.tokens:  # a bucket that ran over meanwhile must not pay for the debt
                account.refill(self._time())
            account.settle(call_id, held, tokens, nano)
            return True

    def _settle_late(self, settlement: Settlement) -> bool:
        tenant, call_id, limits, tokens, nano, row = settlement
        account = self._account(tenant, limits, self._time())
        if account.is_done(call_id):
            return False
        if row is not None and self._outbox is not None:
            self._outbox(row)
        account.settle_late(call_id, tokens, nano)
        return True

    def release(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        """Give a reservation back; an id that holds nothing is barred all the same, and answers False."""
        with self._lock:
            account = self._account(tenant, limits, self._time())
            if account.is_done(call_id):
                return False
            return account.release(call_id)

    def balance(self, tenant: Tenant, limits: Limits) -> Balance:
        with self._lock:
            return self._account(tenant, limits, self._time()).left().balance()

    def close(self) -> None:
        """Nothing to close; the state dies with the object."""

    def _account(self, tenant: Tenant, limits: Limits, now: float) -> Account:
        account = self._accounts.get(tenant.id) or self._open(tenant, limits, now)
        account.move_to(now, limits)
        return account

    def _open(self, tenant: Tenant, limits: Limits, now: float) -> Account:
        if len(self._accounts) >= self._sweep_at or not -self._marker_ttl < now - self._swept < self._marker_ttl:
            self._sweep(now)
        span = span_at(now, limits.period)
        booked_since, booked = self._booked.get(limits.period, (None, {}))
        spent = booked.get(tenant.id, 0) if booked_since == span.start else 0
        account = self._accounts[tenant.id] = Account(limits, Books(span, spent), now, self._marker_ttl)
        return account

    def _sweep(self, now: float) -> None:
        """Drop idle tenants: when markers have aged, or their number has doubled, which keeps it cheap per tenant."""
        self._swept = now
        idle = [name for name, account in self._accounts.items() if account.idle(now)]
        for name in idle:
            del self._accounts[name]
        self._sweep_at = _KEEP + 2 * len(self._accounts)

    async def areserve(self, ask: Ask) -> Granted | Denied:
        return self.reserve(ask)

    async def aextend(self, ask: Ask) -> Granted | Denied:
        return self.extend(ask)

    async def asettle(self, settlement: Settlement) -> bool:
        return self.settle(settlement)

    async def arelease(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        return self.release(tenant, call_id, limits)

    async def abalance(self, tenant: Tenant, limits: Limits) -> Balance:
        return self.balance(tenant, limits)

    async def aclose(self) -> None:
        self.close()


def _booked(ledger: Ledger, now: float) -> dict[Period, tuple[float, dict[str, int]]]:
    """What each tenant has spent in the running period of each kind."""
    kinds: tuple[Period, ...] = get_args(Period)
    starts = {kind: span_at(now, kind).start for kind in kinds}
    return {
        kind: (start, {name: t.cost_nano for name, t in ledger.totals("tenant", since=start).items() if t.cost_nano})
        for kind, start in starts.items()
    }
