"""What must not happen when processes die, replies are lost and servers restart: each fault against a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from tenant_middleware.admission.store import Granted
from tenant_middleware.backends.redis import admission
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.clock import SystemClock
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.metering.outbox import WriteBehind
from tenant_middleware.policy import WhenDown
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import (
    ACME,
    FREE,
    GLOBEX,
    START,
    TTL,
    ask,
    denied,
    granted,
    settlement,
)

from .faulty import Server, Wire, go, told, worker

DEGRADED = WhenDown(limits="degraded", budget="degraded")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, aof=False)
    server.start()
    yield server
    server.end()


@pytest.fixture
def ledger() -> Iterator[WriteBehind]:
    books = WriteBehind(SqlLedger("sqlite:///:memory:"))
    yield books
    books.close()


def test_a_killed_workers_hold_expires_and_a_late_settle_is_exact(redis_url: str, ledger: WriteBehind) -> None:
    limits = replace(FREE, budget_nano=1_000, max_concurrency=4)
    with worker("reserve_and_wait", redis_url, str(START), "dead", "1000") as process:
        assert told(process) == ["Granted"]
        process.kill()
    clock = ManualClock(START)
    with contextlib.closing(RedisAdmission(redis_url, clock=clock, timeout=5.0)) as store:
        assert store.balance(ACME, limits)[2:6] == (1, 0, 200, 0)
        clock.advance(TTL + 1)
        assert store.balance(ACME, limits)[2:6] == (0, 0, 0, 200)
        assert store.settle(settlement(ask(limits=limits, call_id="dead"), nano=150))
        assert store.balance(ACME, limits)[2:6] == (0, 150, 0, 0)
        assert store.drain(ledger) == 1
    assert ledger.totals().cost_nano == 150


def test_duplicate_settles_from_two_processes_are_one(redis_url: str, ledger: WriteBehind) -> None:
    with contextlib.closing(RedisAdmission(redis_url, clock=ManualClock(START), timeout=5.0)) as store:
        granted(store.reserve(ask(call_id="twice", nonce="n")))
        with (
            worker("settle_often", redis_url, str(START), "twice", "3") as one,
            worker("settle_often", redis_url, str(START), "twice", "2") as two,
        ):
            go(one, two)
            assert int(told(one)[0]) + int(told(two)[0]) == 1
        assert store.balance(ACME, FREE).spent_nano == 77
        assert store.drain(ledger) == 1
        assert store.drain(ledger) == 0


def test_a_lost_reply_is_asked_for_again_and_counted_once(server: Server) -> None:
    wire = Wire(server.port)
    limits = replace(FREE, rpm=600, budget_nano=10_000)
    with contextlib.closing(RedisAdmission(wire.url, clock=ManualClock(START), timeout=5.0)) as store:
        store.balance(ACME, limits)
        held = ask(limits=limits)
        wire.lose = 1
        answer = granted(store.reserve(held))
        assert wire.lose == 0
        assert (answer.balance.requests, answer.balance.in_flight, answer.balance.reserved_nano) == (59, 1, 200)
        wire.lose = 1
        store.settle(settlement(held, nano=123))
        assert wire.lose == 0
        assert store.balance(ACME, limits)[2:5] == (0, 123, 0)
    wire.close()


async def test_a_lost_reply_in_a_pipeline_is_counted_once(server: Server) -> None:
    wire = Wire(server.port)
    limits = replace(FREE, rpm=600, budget_nano=100_000)
    store = RedisAdmission(wire.url, clock=ManualClock(START), timeout=5.0)
    await store.abalance(ACME, limits)
    wire.lose = 1
    answers = await asyncio.gather(*(store.areserve(ask(limits=limits)) for _ in range(10)))
    assert wire.lose == 0
    assert all(isinstance(answer, Granted) for answer in answers)
    assert (await store.abalance(ACME, limits))[:3] == (50, None, 10)
    await store.aclose()
    wire.close()


async def test_a_script_flush_under_load_reaches_no_caller(redis_url: str) -> None:
    store = RedisAdmission(redis_url, timeout=5.0)
    limits = replace(FREE, budget_nano=10_000_000)

    async def one() -> None:
        for _ in range(20):
            held = ask(limits=limits)
            granted(await store.areserve(held))
            assert await store.asettle(settlement(held))

    async def flush() -> None:
        for _ in range(20):
            with Redis.from_url(redis_url) as client:
                client.script_flush()
            await asyncio.sleep(0)

    await asyncio.gather(flush(), *(one() for _ in range(20)))
    assert (await store.abalance(ACME, limits)).spent_nano == 400 * 200
    await store.aclose()


@pytest.mark.parametrize("aof", [False, True], ids=["memory", "aof"])
def test_a_restart_opens_no_budget_again(tmp_path: Path, aof: bool, ledger: WriteBehind) -> None:
    server = Server(tmp_path, aof=aof)
    server.start()
    limits = replace(FREE, budget_nano=1_000)
    try:
        with contextlib.closing(RedisAdmission(server.url, ledger=ledger, timeout=5.0)) as store:
            for _ in range(4):
                held = ask(limits=limits, ttl=600.0)
                granted(store.reserve(held))
                store.settle(settlement(held, at=time.time()))
            store.drain(ledger)
            server.kill()
            server.start()
            assert store.balance(ACME, limits).spent_nano == 800
            granted(store.reserve(ask(limits=limits)))
            denied(store.reserve(ask(limits=limits)), "budget_busy")
            assert store.balance(GLOBEX, limits).spent_nano == 0
    finally:
        server.end()


def test_a_server_that_forgot_the_last_second_is_corrected_by_the_ledger(tmp_path: Path, ledger: WriteBehind) -> None:
    server = Server(tmp_path, aof=True)
    server.start()
    limits = replace(FREE, budget_nano=1_000)
    try:
        with contextlib.closing(RedisAdmission(server.url, ledger=ledger, timeout=5.0)) as store:
            store.balance(ACME, limits)
            with Redis.from_url(server.url) as client:
                client.bgrewriteaof()
                account = store._keys_of(ACME).account
                before = client.get(account)
                held = ask(limits=limits)
                granted(store.reserve(held))
                store.settle(settlement(held, nano=900, at=time.time()))
                store.drain(ledger)
                client.set(account, before or b"")  # as if the last second had not reached the disk
            assert store.balance(ACME, limits).spent_nano == 0
            server.kill()
            server.start()
            assert store.balance(ACME, limits).spent_nano == 900
    finally:
        server.end()


def test_a_black_hole_costs_a_quarter_of_a_second_once(server: Server, ledger: WriteBehind) -> None:
    limits = replace(FREE, rpm=600, budget_nano=1_000)
    with contextlib.closing(RedisAdmission(server.url, ledger=ledger, record=ledger.append)) as store:
        granted(store.reserve(ask(limits=limits)))
        server.signal(signal.SIGSTOP)
        began = time.perf_counter()
        with pytest.raises(StoreUnavailable):
            store.reserve(ask(limits=limits))
        first = time.perf_counter() - began
        began = time.perf_counter()
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                store.reserve(ask(limits=limits))
        rest = time.perf_counter() - began
        assert store.breaker.is_open
        server.signal(signal.SIGCONT)
    assert first < 2.5  # ten times the timeout: how busy a machine may be
    assert rest < 2.5  # waiting each time would have taken 5 s


async def test_a_black_hole_costs_the_event_loop_no_more(server: Server) -> None:
    store = RedisAdmission(server.url)
    granted(await store.areserve(ask()))
    server.signal(signal.SIGSTOP)
    began = time.perf_counter()
    answers = await asyncio.gather(*(store.areserve(ask()) for _ in range(50)), return_exceptions=True)
    assert time.perf_counter() - began < 6  # one after the other they would have taken 12 s
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    server.signal(signal.SIGCONT)
    await store.aclose()


def test_a_degraded_tier_is_served_from_its_share(server: Server, ledger: WriteBehind) -> None:
    """Half of what was left of the budget, for one of two workers; rows go straight to the ledger."""
    limits = replace(FREE, rpm=6_000, budget_nano=2_000)
    store = RedisAdmission(
        server.url, ledger=ledger, record=ledger.append, when_down=lambda _: DEGRADED, workers=2, timeout=0.25
    )
    before = ask(limits=limits)
    granted(store.reserve(before))
    store.settle(settlement(before, at=time.time()))
    after = ask(limits=limits)
    granted(store.reserve(after))  # 1,600 are left
    server.kill()
    served = []
    for _ in range(6):
        held = ask(limits=limits)
        if isinstance(store.reserve(held), Granted):
            served.append(held)
    assert len(served) == 4
    for held in served:
        assert store.settle(settlement(held, at=time.time()))
    assert store.settle(settlement(after, at=time.time()))
    assert ledger.totals().cost_nano == 5 * 200
    server.start()
    store.breaker.worked()
    assert store.balance(ACME, limits).spent_nano >= 5 * 200  # the first row died with the server, undrained
    assert not store._outage.waiting
    store.drain(ledger)
    assert ledger.totals().cost_nano == 5 * 200
    store.close()


@pytest.mark.parametrize(
    "rule",
    [WhenDown(), WhenDown(limits="degraded"), WhenDown(budget="degraded")],
    ids=["closed", "budget closed", "limits closed"],
)
def test_a_closed_tier_is_refused(server: Server, ledger: WriteBehind, rule: WhenDown) -> None:
    limits = replace(FREE, rpm=600, budget_nano=1_000)
    store = RedisAdmission(server.url, ledger=ledger, record=ledger.append, when_down=lambda _: rule)
    granted(store.reserve(ask(limits=limits)))
    server.kill()
    with pytest.raises(StoreUnavailable):
        store.reserve(ask(limits=limits))
    store.close()


def test_an_unknown_remainder_is_no_budget(server: Server, ledger: WriteBehind) -> None:
    store = RedisAdmission(server.url, ledger=ledger, record=ledger.append, when_down=lambda _: DEGRADED)
    server.kill()
    with pytest.raises(StoreUnavailable):
        store.reserve(ask(limits=replace(FREE, budget_nano=1_000)))
    store.close()


def test_a_settle_that_neither_store_takes_stays_with_its_caller(server: Server) -> None:
    def full(_: LedgerRow) -> None:
        raise StoreUnavailable("full", store="ledger")

    store = RedisAdmission(server.url, record=full)
    held = ask()
    granted(store.reserve(held))
    server.kill()
    with pytest.raises(StoreUnavailable):
        store.settle(settlement(held))
    server.start()
    store.breaker.worked()
    assert store.settle(settlement(held))
    store.close()


def test_a_silos_breaker_is_its_own(server: Server, redis_url: str) -> None:
    silo, shared = RedisAdmission(server.url), RedisAdmission(redis_url, timeout=5.0)
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            silo.reserve(ask())
    assert silo.breaker.is_open
    granted(shared.reserve(ask()))
    silo.close(), shared.close()


@pytest.mark.parametrize("skew", [-61, 61])
def test_clocks_apart_change_no_decision(redis_url: str, monkeypatch: pytest.MonkeyPatch, skew: int) -> None:
    """The server's time decides, also at the edge of a period, where a skewed worker guesses the wrong one."""
    limits = replace(FREE, rpm=60, budget_nano=1_000, period="hour")
    right = RedisAdmission(redis_url, timeout=5.0)
    monkeypatch.setattr(admission.time, "time", lambda: SystemClock().time() + skew * 60)
    wrong = RedisAdmission(redis_url, timeout=5.0)
    wrong._spans.clear()
    decisions = [(right if n % 2 else wrong).reserve(ask(limits=limits)) for n in range(8)]
    assert [isinstance(answer, Granted) for answer in decisions] == [True] * 5 + [False] * 3
    assert right.balance(ACME, limits)[2:] == wrong.balance(ACME, limits)[2:]
    right.close(), wrong.close()


def test_eight_processes_share_one_hot_tenant(redis_url: str, ledger: WriteBehind) -> None:
    """A budget worth about a thousand calls, and not a nano-dollar more; every row arrives."""
    budget = 150_000
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(worker("hammer", redis_url, "server", "2.0", "acme", str(budget), "budget_nano"))
            for _ in range(8)
        ]
        go(*workers)
        reports = [list(map(int, told(process))) for process in workers]
    served, _, failed, nanos = map(sum, zip(*reports, strict=True))
    with contextlib.closing(RedisAdmission(redis_url, timeout=5.0)) as store:
        store.drain(ledger)
        balance = store.balance(ACME, replace(FREE, budget_nano=budget))
    assert failed == 0
    assert budget - 200 <= nanos <= budget
    assert (balance.spent_nano, balance.reserved_nano) == (nanos, 0)
    totals = ledger.totals("tenant")["acme"]
    assert (totals.calls, totals.cost_nano) == (served, nanos)


def test_two_drainers_move_each_row_once(redis_url: str, ledger: WriteBehind) -> None:
    stores = [RedisAdmission(redis_url, timeout=5.0) for _ in range(2)]
    for number in range(300):
        held = ask(ACME if number % 2 else GLOBEX)
        granted(stores[0].reserve(held))
        stores[0].settle(settlement(held, nano=number))
    new: list[int] = []
    threads = [threading.Thread(target=lambda s=s: new.append(s.drain(ledger))) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 300
    assert ledger.totals().cost_nano == sum(range(300))
    for store in stores:
        store.close()


def test_a_drainer_that_dies_before_it_writes_loses_nothing(redis_url: str, ledger: WriteBehind) -> None:
    class Dying:
        def write(self, rows: object) -> int:
            raise StoreUnavailable("gone", store="ledger")

    with contextlib.closing(RedisAdmission(redis_url, timeout=5.0)) as store:
        held = ask()
        granted(store.reserve(held))
        store.settle(settlement(held))
        with pytest.raises(StoreUnavailable):
            store.drain(Dying())  # type: ignore[arg-type]  # a ledger that takes nothing
        assert store.drain(ledger) == 1
        assert store.drain(ledger) == 0
