"""The in-memory store: the contract, and what is its own (memory, markers, restarts)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tenant_middleware.admission.store import AdmissionStore, Denied
from tenant_middleware.backends.in_memory import account
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.backends.in_memory.ledger import InMemoryLedger
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import (
    ACME,
    FREE,
    GLOBEX,
    START,
    TTL,
    AdmissionContract,
    ask,
    denied,
    granted,
    row,
    settlement,
)


class TestInMemoryAdmission(AdmissionContract):
    @pytest.fixture
    def rows(self) -> list[LedgerRow]:
        return []

    @pytest.fixture
    def store(self, clock: ManualClock, rows: list[LedgerRow]) -> AdmissionStore:
        return InMemoryAdmission(clock, rows.append)

    @pytest.fixture
    def booked(self, store: AdmissionStore, rows: list[LedgerRow]) -> Callable[[], list[LedgerRow]]:
        return lambda: rows


def test_a_restart_gives_nobody_a_second_budget(clock: ManualClock) -> None:
    ledger = InMemoryLedger()
    before = replace(row(ACME, "before", 500), at=START - 15 * 86_400)
    ledger.write([before, row(ACME, "a", 150), row(GLOBEX, "b", 7)])
    clock.set(START)
    store = InMemoryAdmission(clock, ledger=ledger)
    limits = replace(FREE, budget_nano=200)
    assert denied(store.reserve(ask(limits=limits, max_output=10)), "budget").used == 150
    assert store.balance(GLOBEX, limits).spent_nano == 7


def test_settled_ids_are_forgotten_after_the_stated_time(clock: ManualClock) -> None:
    store = InMemoryAdmission(clock, marker_ttl=100)
    held = ask()
    granted(store.reserve(held))
    store.settle(settlement(held))
    clock.advance(99)
    denied(store.reserve(held), "replayed")
    clock.advance(101)
    denied(store.reserve(held), "replayed")
    clock.advance(101)
    granted(store.reserve(held))


def test_idle_tenants_leave_no_trace_and_spent_budgets_do(clock: ManualClock) -> None:
    store = InMemoryAdmission(clock, marker_ttl=10)
    limits = replace(FREE, rpm=600, budget_nano=1_000, period="day")
    spender = ask(limits=limits)
    granted(store.reserve(spender))
    store.settle(settlement(spender))
    for number in range(1_000):
        tenant = Tenant(f"t{number}", "free")
        held = ask(tenant, limits)
        granted(store.reserve(held))
        store.release(tenant, held.call_id, limits)
        clock.advance(1)
    assert len(store._accounts) < 300
    assert store.balance(ACME, limits).spent_nano == 200


def test_lost_reservations_are_bounded_and_stay_charged(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "MAX_LOST", 3)
    store = InMemoryAdmission(clock)
    for _ in range(10):
        granted(store.reserve(ask()))
    clock.advance(TTL)
    assert store.balance(ACME, FREE).lost_nano == 2_000
    assert len(store._accounts["acme"].lost) == 3


def test_a_settle_whose_row_is_refused_can_be_tried_again(clock: ManualClock) -> None:
    rows: list[LedgerRow] = []

    def full(_: LedgerRow) -> None:
        raise StoreUnavailable("full", store="ledger")

    store = InMemoryAdmission(clock, full)
    held = ask()
    granted(store.reserve(held))
    with pytest.raises(StoreUnavailable):
        store.settle(settlement(held))
    assert store.balance(ACME, FREE).reserved_nano == 200
    store._outbox = rows.append
    assert store.settle(settlement(held))
    assert len(rows) == 1


def test_limits_that_change_take_hold_at_once(clock: ManualClock) -> None:
    store = InMemoryAdmission(clock)
    granted(store.reserve(ask(limits=replace(FREE, rpm=6_000))))
    granted(store.reserve(ask(limits=replace(FREE, rpm=10))))
    assert isinstance(store.reserve(ask(limits=replace(FREE, rpm=10))), Denied)
    granted(store.reserve(ask(limits=FREE)))
