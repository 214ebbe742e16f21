"""The store on a real Redis: the contract, and that it decides like the in-memory one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

import pytest
from redis import Redis

from tenant_middleware.admission.store import AdmissionStore, Ask, Denied, Granted, Limits
from tenant_middleware.backends.in_memory.admission import InMemoryAdmission
from tenant_middleware.backends.in_memory.ledger import InMemoryLedger
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.errors import SettingsError, StoreUnavailable
from tenant_middleware.local import local_redis
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import ACME, FREE, START, AdmissionContract, ask, granted, row, settlement


class TestRedisAdmission(AdmissionContract):
    @pytest.fixture
    def store(self, clock: ManualClock, redis_url: str) -> Iterator[AdmissionStore]:
        store = RedisAdmission(redis_url, clock=clock, timeout=5.0)
        yield store
        store.close()

    @pytest.fixture
    def booked(self, store: RedisAdmission) -> Callable[[], Sequence[LedgerRow]]:
        ledger = InMemoryLedger()

        def drained() -> Sequence[LedgerRow]:
            store.drain(ledger)
            return ledger.rows()

        return drained


@pytest.mark.parametrize("seed", range(20))
def test_it_decides_like_the_in_memory_store(redis_url: str, seed: int) -> None:
    """300 random steps: every answer is the same but for parts of a nano-second of refill."""
    random, clock = Random(seed), ManualClock(START)
    shared = RedisAdmission(redis_url, clock=clock, timeout=5.0)
    reference = InMemoryAdmission(clock, marker_ttl=1e9)  # the server's markers age by real time
    limits = Limits(
        rpm=random.choice([None, 30, 600]),
        tpm=random.choice([None, 3_000]),
        burst=random.choice([0.1, 0.5]),
        max_concurrency=random.choice([None, 3]),
        budget_nano=random.choice([None, 20_000]),
        period=random.choice(["hour", "day"]),
    )
    open_calls: list[Ask] = []
    for step in range(300):
        do = random.random()
        if do < 0.4 or not open_calls:
            asked = ask(
                limits=limits,
                prompt_tokens=random.randrange(400),
                max_output=random.randrange(16, 200),
                min_output=16,
                fixed_nano=random.randrange(2_000),
                output_nano=random.randrange(20),
            )
            _same(shared.reserve(asked), reference.reserve(asked))
            open_calls.append(asked)
        elif do < 0.55:
            more = random.choice(open_calls)._replace(
                nonce=f"n{step}", prompt_tokens=0, fixed_nano=0, max_output=random.randrange(50), min_output=0
            )
            _same(shared.extend(more), reference.extend(more))
        elif do < 0.85:
            done = settlement(
                open_calls.pop(random.randrange(len(open_calls))), random.randrange(600), random.randrange(3_000)
            )
            assert shared.settle(done) == reference.settle(done)
        elif do < 0.9:
            gone = open_calls.pop()
            assert shared.release(ACME, gone.call_id, limits) == reference.release(ACME, gone.call_id, limits)
        else:
            clock.advance(random.choice([0.5, 5, 60, 125, 2_000]))
        ours, theirs = shared.balance(ACME, limits), reference.balance(ACME, limits)
        assert ours[2:] == theirs[2:], (step, ours, theirs)
    shared.close()


def _same(ours: Granted | Denied, theirs: Granted | Denied) -> None:
    assert type(ours) is type(theirs), (ours, theirs)
    if isinstance(ours, Granted):
        assert ours[:3] == theirs[:3]
        return
    assert ours[:3] == theirs[:3]
    assert ours.never == theirs.never
    assert ours.retry_after == pytest.approx(theirs.retry_after, abs=1e-6)
    assert ours.resets_at == theirs.resets_at


def test_an_evicting_server_is_refused_at_start_up() -> None:
    with local_redis(modules=False, maxmemory_policy="allkeys-lru") as url, pytest.raises(SettingsError) as refused:
        RedisAdmission(url, timeout=5.0)
    assert "maxmemory-policy" in str(refused.value)


def test_a_flushed_server_gets_its_budgets_from_the_ledger(redis_url: str) -> None:
    ledger, clock = InMemoryLedger(), ManualClock(START)
    store = RedisAdmission(redis_url, ledger=ledger, clock=clock, timeout=5.0)
    limits = replace(FREE, budget_nano=1_000)
    for _ in range(2):
        held = ask(limits=limits)
        granted(store.reserve(held))
        store.settle(settlement(held, nano=300))
    store.drain(ledger)
    waiting = ask(limits=limits)
    granted(store.reserve(waiting))
    store.settle(settlement(waiting, nano=250))  # its row is still in the stream, and is lost with it
    with Redis.from_url(redis_url) as client:
        client.flushall()
    assert store.balance(ACME, limits).spent_nano == 600
    store.close()


def test_what_calls_hold_survives_the_loss_of_the_account(redis_url: str) -> None:
    clock = ManualClock(START)
    store = RedisAdmission(redis_url, clock=clock, timeout=5.0)
    limits = replace(FREE, budget_nano=1_000, max_concurrency=3)
    dead, live = ask(limits=limits, ttl=10.0), ask(limits=limits)
    granted(store.reserve(dead)), granted(store.reserve(live))
    clock.advance(11)
    assert store.balance(ACME, limits)[2:6] == (1, 0, 200, 200)
    with Redis.from_url(redis_url) as client:
        client.delete(store._keys_of(ACME).account)
    assert store.balance(ACME, limits)[2:6] == (1, 0, 200, 200)
    store.settle(settlement(live, nano=150)), store.settle(settlement(dead, nano=50))
    assert store.balance(ACME, limits)[2:6] == (0, 200, 0, 0)
    store.close()


def test_rows_in_the_stream_count_when_an_account_is_rebuilt(redis_url: str) -> None:
    ledger, clock = InMemoryLedger(), ManualClock(START)
    store = RedisAdmission(redis_url, ledger=ledger, clock=clock, timeout=5.0)
    ledger.write([row(ACME, "before", 100)])
    held = ask()
    granted(store.reserve(held))
    store.settle(settlement(held, nano=40))
    with Redis.from_url(redis_url) as client:
        client.delete(store._keys_of(ACME).account)
    assert store.balance(ACME, FREE).spent_nano == 140
    store.close()


class SlowBooks(InMemoryLedger):
    """Counts how often it is asked, and fails while it is `down`."""

    reads, down = 0, False

    def spent_nano(self, tenant_id: str, *, since: float) -> int:
        self.reads += 1
        if self.down:
            raise StoreUnavailable("the ledger is down", store="ledger")
        return super().spent_nano(tenant_id, since=since)


async def test_a_crowd_of_first_calls_reads_the_ledger_once(redis_url: str) -> None:
    """After a restart of Redis every tenant's crowd arrives at once; the ledger must not be asked by each call."""
    ledger, limits = SlowBooks(), replace(FREE, budget_nano=10_000, rpm=6_000, tpm=None, max_concurrency=None)
    store = RedisAdmission(redis_url, ledger=ledger, clock=ManualClock(START), timeout=5.0)
    ledger.down = True
    answers = await asyncio.gather(*(store.areserve(ask(limits=limits)) for _ in range(20)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 20
    assert ledger.reads == 1
    ledger.down = False
    answers = await asyncio.gather(*(store.areserve(ask(limits=limits)) for _ in range(20)))
    assert [type(answer) for answer in answers] == [Granted] * 20
    assert ledger.reads == 2
    await store.aclose()
