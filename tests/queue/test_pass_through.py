from __future__ import annotations

import asyncio
import threading

import pytest

from tenant_middleware.admission.queue import Ticket
from tenant_middleware.admission.queueing.pass_through import PassThrough
from tenant_middleware.errors import RateLimited
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

ACME, OTHER = Tenant("Acme", "free"), Tenant("acme", "free")


def ticket(tenant: Tenant, name: str = "1", timeout: float = 10.0) -> Ticket:
    return Ticket(tenant, name, "m", 10, 100, 1.0, timeout)


async def settle_loop(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def test_entering_never_waits_without_a_line() -> None:
    queue = PassThrough(ManualClock())
    slots = [queue.enter(ticket(ACME, str(n), timeout=0)) for n in range(100)]
    assert [slot.waited for slot in slots] == [0.0] * 100
    for slot in slots:
        queue.leave(slot, 1, 1)


def test_a_sync_park_lets_the_time_pass() -> None:
    clock = ManualClock()
    queue = PassThrough(clock)
    slot = queue.park(ticket(ACME), queue.enter(ticket(ACME)), 4.0)
    assert (clock.time(), slot.waited) == (4.0, 4.0)
    assert queue.waiting("Acme") == 0


def test_a_park_past_the_timeout_is_refused_with_the_time_to_come_back() -> None:
    queue = PassThrough(ManualClock())
    slot = queue.park(ticket(ACME), queue.enter(ticket(ACME)), 7.0)
    with pytest.raises(RateLimited) as caught:
        queue.park(ticket(ACME), slot, 7.0)
    assert (caught.value.rule, caught.value.retry_after, caught.value.tenant_id) == ("queue", 7.0, "Acme")
    assert queue.waiting("Acme") == 0


async def test_first_parked_is_first_to_retry() -> None:
    clock = ManualClock()
    queue, order = PassThrough(clock), list[str]()

    async def call(name: str, seconds: float) -> None:
        await queue.apark(ticket(ACME, name), await queue.aenter(ticket(ACME, name, timeout=0)), seconds)
        order.append(name)

    tasks = []
    for name, seconds in (("a", 5.0), ("b", 1.0), ("c", 5.0)):
        tasks.append(asyncio.create_task(call(name, seconds)))
        await settle_loop()
    clock.advance(1.0)
    await settle_loop()
    assert order == []
    clock.advance(4.0)
    for _ in range(5):
        await settle_loop()
        clock.advance(0.001)
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]


async def test_newcomers_line_up_behind_their_own_tenant_only() -> None:
    clock = ManualClock()
    queue = PassThrough(clock)
    parked = asyncio.create_task(queue.apark(ticket(ACME), await queue.aenter(ticket(ACME)), 3.0))
    await settle_loop()
    newcomer = asyncio.create_task(queue.aenter(ticket(ACME, "2")))
    assert (await queue.aenter(ticket(OTHER))).waited == 0.0
    await settle_loop()
    assert not newcomer.done() and queue.waiting("Acme") == 2 and queue.waiting("acme") == 0
    clock.advance(3.0)
    await settle_loop()
    clock.advance(0.001)
    assert (await parked).waited == 3.0
    assert (await newcomer).waited == pytest.approx(3.0, abs=0.01)


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    clock = ManualClock()
    queue = PassThrough(clock)
    task = asyncio.create_task(queue.apark(ticket(ACME), await queue.aenter(ticket(ACME)), 5.0))
    await settle_loop()
    assert (queue.waiting("Acme"), clock.sleepers) == (1, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (queue.waiting("Acme"), clock.sleepers) == (0, 0)


def test_threads_share_one_line() -> None:
    queue, slots = PassThrough(ManualClock()), list[float]()

    def call(n: int) -> None:
        slots.append(queue.park(ticket(ACME, str(n), timeout=100), queue.enter(ticket(ACME, timeout=0)), 0.01).waited)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(slots) == 8 and queue.waiting("Acme") == 0
