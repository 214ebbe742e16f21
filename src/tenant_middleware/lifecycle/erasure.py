"""Erase a tenant: a saga whose every step may be the last one this process takes, and which then goes on from there.

Suspend it, wait until every worker has read that and no call is in flight, move settled calls into the books, erase
store by store, settle what the books keep, look again everywhere, sign what was found. Each step can be repeated.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Literal

from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.clock import utc
from tenant_middleware.errors import ConfigurationError, InvalidInput, StoreUnavailable, TenancyError
from tenant_middleware.isolation.standing import REFRESH, Standing
from tenant_middleware.lifecycle.receipt import Receipt, StoreReceipt
from tenant_middleware.lifecycle.stores import LifecycleStore, stores_of
from tenant_middleware.policy import passage
from tenant_middleware.settings import in_memory_database
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

Retention = Literal["pseudonymise", "delete"]
EXPORT_LEASE = 600.0
_POLL = 0.5


def erase(
    tenancy: Tenancy,
    tenant: Tenant,
    *,
    confirm: str,
    stores: Mapping[str, LifecycleStore] | None = None,
    retention: Retention = "pseudonymise",
    wait: Callable[[float], None] = time.sleep,
    on_step: Callable[[str], None] = lambda step: None,
) -> Receipt:
    """Erase everything of a tenant, in every store of the Tenancy and in `stores` of the application's own.

    `confirm` is the id once more. Raises ConfigurationError while an export runs. After a crash, call it again: the
    tenant stays refused meanwhile and for ever after. `on_step` hears of each step before it is taken.
    """
    if confirm != tenant.id:
        raise InvalidInput("erase: confirm= has to be the tenant's id, written once more; nothing was done")
    return _Erasure(tenancy, tenant, stores_of(tenancy, stores), retention, wait, on_step).run()


def _books(tenancy: Tenancy) -> SqlLedger:
    """The ledger's database itself, behind what waits to be written."""
    books = tenancy.ledger.ledger
    if not isinstance(books, SqlLedger):
        raise ConfigurationError("erase: the ledger is no SQL database, so its rows can't be settled")
    return books


class _Erasure:
    def __init__(
        self,
        tenancy: Tenancy,
        tenant: Tenant,
        stores: Mapping[str, LifecycleStore],
        retention: Retention,
        wait: Callable[[float], None],
        on_step: Callable[[str], None],
    ) -> None:
        self._tenancy, self._tenant, self._stores = tenancy, tenant, stores
        self._retention, self._wait, self._on_step = retention, wait, on_step
        self._erased = dict.fromkeys(stores, 0)
        self._failed: dict[str, str] = {}

    def run(self) -> Receipt:
        with passage(self._tenant):
            began = self._suspend()
            self._wait_for_calls()
            self._step("books: drain")
            self._tenancy.drain()
            for name, store in self._stores.items():
                self._step(f"erase: {name}")
                self._try(name, store)
            self._step("books: retention")
            books = self._settle_books()
            self._step("look again")
            found = [self._look_again(name, store) for name, store in self._stores.items()]
            self._step("sign")
            return self._sign(began, [*found, books])

    def _step(self, name: str) -> None:
        self._on_step(name)

    def _suspend(self) -> float:
        """Mark the tenant as being erased, and say since when it is; an export that runs is left to end first."""
        self._step("suspend")
        standings, now, name = self._tenancy.standings, self._tenancy.clock.time(), self._tenant.id
        known = standings.get(name)
        began = known.since if known is not None and known.state in ("erasing", "erased") else None
        if began is None:
            standings.put(name, Standing("erasing", now))
        self._tenancy.refresh_standing()
        if self._is_exported(now):
            if began is None:
                standings.put(name, known or Standing("active", now))
                self._tenancy.refresh_standing()
            raise ConfigurationError("erase: an export of this tenant is running; let it end first")
        return now if began is None else began

    def _is_exported(self, now: float) -> bool:
        marked = self._tenancy.standings.get(self._tenant.id)
        return marked is not None and marked.exporting is not None and now - marked.exporting < EXPORT_LEASE

    def _wait_for_calls(self) -> None:
        """Until every worker has read the mark, and every reservation has ended or its lease has run out."""
        self._step("wait")
        if not in_memory_database(self._tenancy.settings.backends.ledger):
            self._wait(2 * REFRESH)
        waited = 0.0
        while self._tenancy.balance(self._tenant).in_flight:
            if waited > self._tenancy.settings.admission.reservation_ttl + _POLL:
                raise StoreUnavailable(
                    "erase: calls of this tenant are still in flight; run it again", store="admission"
                )
            self._wait(_POLL)
            waited += _POLL

    def _try(self, name: str, store: LifecycleStore) -> None:
        try:
            self._erased[name] += store.erase(self._tenant)
        except (TenancyError, OSError) as error:
            self._failed[name] = f"{type(error).__name__}: {error}"[:300]

    def _settle_books(self) -> StoreReceipt:
        ledger, name = _books(self._tenancy), self._tenant.id
        self._tenancy.ledger.flush()
        if self._retention == "delete":
            return StoreReceipt("ledger", "GONE", ledger.delete(name))
        kept = ledger.pseudonymise(name, f"erased-{secrets.token_hex(8)}")
        why = "amounts stay booked under a random alias, without subject"
        return StoreReceipt("ledger", "HIDDEN" if kept else "GONE", kept, why=why if kept else "")

    def _look_again(self, name: str, store: LifecycleStore) -> StoreReceipt:
        erased = self._erased[name]
        if name in self._failed:
            return StoreReceipt(name, "UNVERIFIED", erased, why=self._failed[name])
        try:
            left = tuple(store.leftovers(self._tenant))
        except (TenancyError, OSError) as error:
            return StoreReceipt(name, "UNVERIFIED", erased, why=f"{type(error).__name__}: {error}"[:300])
        return StoreReceipt(name, "UNVERIFIED" if left else "GONE", erased, left)

    def _sign(self, began: float, stores: list[StoreReceipt]) -> Receipt:
        now, configured = self._tenancy.clock.time(), self._tenancy.settings.secrets.fingerprint_key is not None
        times = (utc(began).isoformat(), utc(now).isoformat())
        receipt = Receipt(self._tenant.id, *times, "configured" if configured else "none", tuple(stores))
        if configured:
            receipt = receipt.signed(self._tenancy.secret)
        if receipt.complete:
            detail = json.dumps(receipt.as_json())
            self._tenancy.standings.put(self._tenant.id, Standing("erased", began, detail=detail))
        return receipt
