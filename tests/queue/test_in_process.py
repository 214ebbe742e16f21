from __future__ import annotations

import asyncio

import pytest

from tenant_middleware.admission.queue import FairQueue
from tenant_middleware.admission.queueing.in_process import InProcessQueue
from tenant_middleware.admission.queueing.pools import Pools
from tenant_middleware.clock import SystemClock
from tenant_middleware.errors import RateLimited
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.queue import ACME, NEXT, TWIN, FairQueueContract, pools, ticket


class TestInProcessQueue(FairQueueContract):
    def make(self, pools: Pools) -> FairQueue:
        return InProcessQueue(SystemClock(), pools)


async def turns(many: int = 30) -> None:
    for _ in range(many):
        await asyncio.sleep(0)


async def test_waits_are_measured_on_the_clock() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock, pools(1))
    slot = await queue.aenter(ticket(ACME))
    wait = asyncio.create_task(queue.aenter(ticket(TWIN)))
    await turns()
    clock.advance(3.0)
    await queue.aleave(slot, 100, 0)
    assert (await wait).waited == 3.0


async def test_a_timeout_on_the_clock_leaves_no_sleeper() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock, pools(1))
    await queue.aenter(ticket(ACME))
    wait = asyncio.create_task(queue.aenter(ticket(TWIN)))
    await turns()
    clock.advance(5.0)
    with pytest.raises(RateLimited):
        await wait
    await turns()
    assert clock.sleepers == 0


async def test_the_watch_is_handed_on() -> None:
    """The caller that watches for a parked tenant's return goes away; another one takes over."""
    clock = ManualClock()
    queue = InProcessQueue(clock, pools(2))
    slot = await queue.aenter(ticket(ACME))
    first = asyncio.create_task(queue.apark(ticket(ACME), slot, 2.0))
    await turns()
    second = asyncio.create_task(queue.aenter(ticket(ACME)))
    await turns()
    first.cancel()
    await turns()
    clock.advance(2.0)
    assert (await second).waited == 2.0


async def test_a_clock_set_back_delays_nobody() -> None:
    clock = ManualClock(1000.0)
    queue = InProcessQueue(clock, pools(1))
    slot = await queue.aenter(ticket(ACME))
    wait = asyncio.create_task(queue.apark(ticket(ACME), slot, 2.0))
    await turns()
    clock.set(0.0)
    queue.state()
    clock.advance(2.0)
    assert (await wait).waited == pytest.approx(2.0)


def test_a_sync_park_lets_the_time_pass() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock)
    slot = queue.park(ticket(ACME), queue.enter(ticket(ACME)), 4.0)
    assert (clock.time(), slot.waited, slot.probe) == (4.0, 4.0, True)


def test_a_park_past_the_timeout_is_refused_with_the_time_to_come_back() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock)
    with pytest.raises(RateLimited) as caught:
        queue.park(ticket(ACME), queue.enter(ticket(ACME)), 7.0)
    assert (caught.value.rule, caught.value.retry_after, caught.value.tenant_id) == ("queue", 2.0, "Acme")
    assert queue.enter(ticket(TWIN, timeout=0)).waited == 0.0


async def test_newcomers_line_up_behind_their_own_tenant_only() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock)
    parked = asyncio.create_task(queue.apark(ticket(ACME), await queue.aenter(ticket(ACME)), 3.0))
    await turns()
    newcomer = asyncio.create_task(queue.aenter(ticket(ACME)))
    assert (await queue.aenter(ticket(TWIN, timeout=0))).waited == 0.0
    assert (await queue.aenter(ticket(NEXT, timeout=0))).waited == 0.0
    await turns()
    assert not newcomer.done()
    clock.advance(3.0)
    slot = await parked
    await turns()
    assert slot.waited == 3.0 and not newcomer.done()
    await queue.aprogress(slot, 0)
    assert (await newcomer).waited == 3.0


async def test_a_tenant_without_a_line_costs_no_books_again() -> None:
    clock = ManualClock()
    queue = InProcessQueue(clock)
    parked = asyncio.create_task(queue.apark(ticket(ACME), await queue.aenter(ticket(ACME)), 1.0))
    await turns()
    clock.advance(1.0)
    await queue.aleave(await parked, 1, 1)
    (state,) = queue.state()
    assert (state.running, state.waiting) == (0, 0)
