"""Whoever shares a Redis: ids chosen to collide, call ids replayed and guessed, streams cut off, books that wait."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis import Redis

from tenant_middleware.admission.call import Call
from tenant_middleware.backends.redis import wire
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.context import scope
from tenant_middleware.errors import BudgetExceeded, InvalidInput, StoreUnavailable
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import ACME, FREE, GLOBEX, START, ask, denied, granted, settlement

# Prefixes, cases, our own separators and names of keys, and what base32 and hash tags might fold together.
COLLIDING = [
    "acme",
    "Acme",
    "ACME",
    "acme2",
    "acme.",
    "acme.held",
    "acme-lost",
    "acme_",
    "a",
    "A",
    "0",
    "O",
    "admission",
]


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisAdmission]:
    with contextlib.closing(RedisAdmission(redis_url, clock=ManualClock(START), timeout=5.0)) as store:
        yield store


def test_no_two_tenants_share_a_key(store: RedisAdmission, redis_url: str) -> None:
    ids = ["c", "c.", "lost", "held", "C"]
    tenants = [Tenant(name, "free") for name in COLLIDING]
    for tenant in tenants:
        for call_id in ids:
            granted(store.reserve(ask(tenant, call_id=call_id)))
            store.settle(settlement(ask(tenant, call_id=call_id)))
    own = {tenant.id: {key for call in ids for key in wire.TenantKeys.of(tenant).for_call(call)} for tenant in tenants}
    for one, other in itertools.combinations(own.values(), 2):
        assert not one & other
    with Redis.from_url(redis_url) as client:
        there = {key.decode() for key in client.scan_iter(count=1_000)} - {wire.REGISTRY}
    assert there <= set().union(*own.values())  # positive control: they are the keys that were used
    for tenant in tenants:
        assert store.balance(tenant, FREE).spent_nano == 200 * len(ids)


def test_a_call_id_of_somebody_else_opens_nothing(store: RedisAdmission) -> None:
    """Guessed or overheard: what globex does with acme's call id happens to globex alone."""
    mine = ask(ACME, call_id="known")
    granted(store.reserve(mine))
    guess = mine._replace(tenant=GLOBEX)
    denied(store.extend(guess), "unknown_call")
    assert not store.release(GLOBEX, "known", FREE)
    before = store.balance(ACME, FREE)
    denied(store.reserve(guess), "replayed")  # released above: barred for globex
    assert store.balance(ACME, FREE) == before
    assert store.settle(settlement(mine))
    assert store.balance(GLOBEX, FREE).spent_nano == 0


def test_a_replayed_call_is_refused_before_during_and_after(store: RedisAdmission) -> None:
    mine = ask()
    granted(store.reserve(mine))
    denied(store.reserve(mine._replace(nonce="replay")), "replayed")
    store.settle(settlement(mine))
    denied(store.reserve(mine), "replayed")
    denied(store.extend(mine._replace(nonce="replay")), "replayed")
    assert not store.settle(settlement(mine, nano=10**9))
    assert store.balance(ACME, FREE).spent_nano == 200


def test_fifteen_hundred_times_the_reservation_is_owed_and_spent(store: RedisAdmission) -> None:
    limits = replace(FREE, tpm=60_000, budget_nano=1_000)
    first = ask(limits=limits)
    granted(store.reserve(first))
    store.settle(settlement(first, tokens=20 * 1_500, nano=200 * 1_500))
    assert store.balance(ACME, limits).spent_nano == 300_000
    denied(store.reserve(ask(limits=limits)), "budget")
    owed = denied(store.reserve(ask(limits=replace(limits, budget_nano=None))), "tpm")
    assert owed.retry_after == pytest.approx((30_000 - 6_000 + 20) / 1_000, abs=0.01)


def test_a_period_that_ends_under_calls_in_flight(store: RedisAdmission, redis_url: str) -> None:
    """Each is settled where it began; the new period's budget is whole."""
    clock = ManualClock(START + 3_590)
    limits = replace(FREE, budget_nano=1_000, period="hour")
    with contextlib.closing(RedisAdmission(redis_url, clock=clock, timeout=5.0)) as store:
        flying = [ask(limits=limits) for _ in range(5)]
        for held in flying:
            granted(store.reserve(held))
        denied(store.reserve(ask(limits=limits)), "budget_busy")
        clock.advance(20)
        fresh = [ask(limits=limits) for _ in range(5)]
        for held in fresh:
            granted(store.reserve(held))
        for held in flying:
            assert store.settle(settlement(held, nano=190))
        assert store.balance(ACME, limits)[3:5] == (0, 1_000)
        for held in fresh:
            store.settle(settlement(held, nano=200))
        assert store.balance(ACME, limits)[3:5] == (1_000, 0)


@pytest.fixture
def policy(redis_url: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "backends": {"admission": redis_url, "ledger": f"sqlite:///{tmp_path}/usage.db"},
        "admission": {"store_timeout": "5s", "drain_every": "1h"},
        "tiers": {
            "free": {
                "rpm": "unlimited",
                "tpm": "unlimited",
                "max_concurrency": "unlimited",
                "budget": {"usd": "0.001"},
                "models": ["m"],
                "max_output_tokens": 100,
            }
        },
        "tenants": {"acme": {"tier": "free"}, "globex": {"tier": "free"}},
        "prices": {"m": {"input_usd_per_million": "1", "output_usd_per_million": "2"}},
    }


@pytest.mark.parametrize("reported", [None, Usage(30, 12)], ids=["nothing", "something"])
async def test_an_aborted_stream_is_charged_what_is_known(policy: dict[str, Any], reported: Usage | None) -> None:
    """Its prompt at least, and what was counted until then; the row says that it is an estimate."""
    started = asyncio.Event()
    async with Tenancy.from_mapping(policy) as tenancy:
        with scope(ACME):

            async def stream() -> None:
                async with tenancy.gate.acall(Call(ACME, "m", prompt_tokens=40, stream=True)) as hold:
                    if reported is not None:
                        hold.report(reported)
                    started.set()
                    await asyncio.sleep(600)

            task = asyncio.create_task(stream())
            await started.wait()
            assert (await tenancy.abalance(ACME)).in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        balance = await tenancy.abalance(ACME)
        await tenancy.adrain()
        (row,) = tenancy.ledger.rows()
    nano = 40_000 if reported is None else 30_000 + 24_000
    assert (balance.in_flight, balance.reserved_nano, balance.spent_nano) == (0, 0, nano)
    assert (row.status, row.cost_nano, row.stream) == ("cancelled", nano, True)
    assert row.source == ("estimated" if reported is None else "provider")


def test_the_ledgers_lock_delays_rows_and_no_call(policy: dict[str, Any], tmp_path: Path) -> None:
    with Tenancy.from_mapping(policy) as tenancy:
        lock = sqlite3.connect(tmp_path / "usage.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
        with scope(ACME), tenancy.gate.call(Call(ACME, "m", prompt_tokens=40)) as hold:
            hold.report(Usage(30, 12))
        spent = tenancy.balance(ACME).spent_nano
        store = tenancy.gate.store_for(ACME)
        with pytest.raises(StoreUnavailable, match="lock"):
            store.drain(_impatient(tenancy))  # type: ignore[attr-defined]
        lock.execute("ROLLBACK")
        lock.close()
        assert tenancy.drain() == 1
        assert tenancy.ledger.totals().cost_nano == spent == 54_000


def _impatient(tenancy: Tenancy) -> SqlLedger:
    """A second view of the books, which waits for no lock."""
    ledger = copy.copy(tenancy._sql)
    ledger._engine = sa.create_engine(tenancy.settings.backends.ledger, connect_args={"timeout": 0.05})
    return ledger


def test_one_tenants_budget_is_nobody_elses(policy: dict[str, Any]) -> None:
    with Tenancy.from_mapping(policy) as tenancy:

        def spend(tenant: Tenant) -> int:
            served = 0
            with scope(tenant), contextlib.suppress(BudgetExceeded):
                for _ in range(100):
                    with tenancy.gate.call(Call(tenant, "m", prompt_tokens=100, max_tokens=100)) as hold:
                        hold.report(Usage(100, 50))
                    served += 1
            return served

        assert spend(ACME) == spend(GLOBEX) == 5  # 0.0002 each; for the sixth nothing is left
        assert tenancy.balance(ACME).spent_nano == 1_000_000


def test_a_call_id_is_ours_and_used_once(policy: dict[str, Any]) -> None:
    with Tenancy.from_mapping(policy) as tenancy, scope(ACME):
        call = Call(ACME, "m", prompt_tokens=10)
        with tenancy.gate.call(call) as hold:
            hold.report(Usage(1, 1))
        with pytest.raises(InvalidInput, match="used once"):
            tenancy.gate.admit(call)
