"""The contract of a fair queue: what any implementation of `FairQueue` does, whatever is behind it."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from dataclasses import replace

import pytest

from tenant_middleware.admission.queue import FairQueue, Slot, Ticket
from tenant_middleware.admission.queueing.pools import PoolRule, Pools
from tenant_middleware.admission.queueing.terms import LaneCaps, PoolTerms
from tenant_middleware.errors import RateLimited
from tenant_middleware.tenant import Tenant

ACME, TWIN, NEXT = Tenant("Acme", "free"), Tenant("acme", "free"), Tenant("acme2", "free")
SOON = 5.0


def pools(
    slots: int | None = 2, *, models: tuple[str, ...] = ("m",), caps: LaneCaps | None = None, max_runtime: float = 60.0
) -> Pools:
    """One pool named "p", as the suite wants it."""
    return Pools([PoolRule("p", models, PoolTerms(slots, caps=caps or LaneCaps(), max_runtime=max_runtime))])


def ticket(tenant: Tenant, *, prompt: int = 100, output: int = 0, timeout: float = SOON, model: str = "m") -> Ticket:
    """A call of a tenant; ids don't matter to a queue."""
    return Ticket(tenant, "0" * 32, model, prompt, output, 1.0, timeout)


class FairQueueContract(ABC):
    """Derive a test class, say how to make a queue, and run pytest. Waits are real and short."""

    @abstractmethod
    def make(self, pools: Pools) -> FairQueue:
        """A queue with nothing in it."""

    def waiting(self, queue: FairQueue) -> int:
        """How many calls wait, over all pools."""
        return sum(pool.waiting for pool in queue.state())

    async def until_waiting(self, queue: FairQueue, many: int) -> None:
        """Come back when that many calls are in line."""
        async with asyncio.timeout(SOON):
            while self.waiting(queue) != many:  # noqa: ASYNC110 - a queue under test has no event to wait for
                await asyncio.sleep(0.001)

    def test_a_free_slot_is_given_at_once(self) -> None:
        queue = self.make(pools())
        slot = queue.enter(ticket(ACME, timeout=0))
        assert slot.waited == 0.0 and not slot.probe
        queue.leave(slot, 100, 0)
        queue.close()

    def test_slots_are_never_exceeded_and_come_back(self) -> None:
        queue = self.make(pools(2))
        for _ in range(3):
            slots = [queue.enter(ticket(tenant, timeout=0)) for tenant in (ACME, TWIN)]
            with pytest.raises(RateLimited) as caught:
                queue.enter(ticket(NEXT, timeout=0))
            assert (caught.value.rule, caught.value.tenant_id) == ("queue", "acme2")
            assert caught.value.retry_after is not None and caught.value.retry_after > 0
            for slot in slots:
                queue.leave(slot, 100, 0)
                queue.leave(slot, 100, 0)
        queue.close()

    async def test_a_call_inside_another_one_of_its_pool_does_not_wait_for_a_slot(self) -> None:
        """Else two calls that each hold a slot and ask for a second one would wait for each other."""
        queue = self.make(pools(2))
        holding = [await queue.aenter(ticket(tenant)) for tenant in (ACME, TWIN)]
        for slot, tenant in zip(holding, (ACME, TWIN), strict=True):
            inner = await queue.aenter(replace(ticket(tenant), inside=slot))
            await queue.aprogress(inner, 5)
            await queue.aleave(inner, 100, 5)
            queue.leave(queue.enter(replace(ticket(tenant), inside=slot)), 100, 5)
        with pytest.raises(RateLimited):
            await queue.aenter(ticket(NEXT, timeout=0))
        for slot in holding:
            await queue.aleave(slot, 100, 0)
        free = await queue.aenter(replace(ticket(NEXT), inside=holding[0]))
        (state,) = queue.state()
        assert (state.running, state.waiting) == (1, 0), "where a slot is free, it is taken"
        await queue.aleave(free, 100, 0)
        await queue.aclose()

    async def test_a_flood_does_not_delay_its_neighbours(self) -> None:
        queue, order = self.make(pools(1)), list[str]()
        first = await queue.aenter(ticket(ACME))

        async def call(tenant: Tenant) -> None:
            slot = await queue.aenter(ticket(tenant, timeout=30))
            order.append(tenant.id)
            await queue.aleave(slot, 100, 0)

        flood = [asyncio.create_task(call(ACME)) for _ in range(20)]
        await self.until_waiting(queue, 20)
        light = [asyncio.create_task(call(tenant)) for tenant in (TWIN, NEXT)]
        await self.until_waiting(queue, 22)
        await queue.aleave(first, 100, 0)
        await asyncio.gather(*flood, *light)
        assert set(order[:4]) == {"Acme", "acme", "acme2"} and len(order) == 22
        await queue.aclose()

    async def test_a_wait_past_the_timeout_is_refused(self) -> None:
        queue = self.make(pools(1))
        slot = await queue.aenter(ticket(ACME))
        with pytest.raises(RateLimited) as caught:
            await queue.aenter(ticket(TWIN, timeout=0.05))
        assert caught.value.rule == "queue" and self.waiting(queue) == 0
        await queue.aleave(slot, 0, 0)
        await queue.aleave(await queue.aenter(ticket(TWIN, timeout=0)), 0, 0)
        await queue.aclose()

    async def test_a_cancelled_wait_leaves_the_line_and_is_charged_nothing(self) -> None:
        queue = self.make(pools(1))
        slot = await queue.aenter(ticket(ACME))
        waits = [asyncio.create_task(queue.aenter(ticket(TWIN))) for _ in range(5)]
        await self.until_waiting(queue, 5)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        assert self.waiting(queue) == 0
        await queue.aleave(slot, 100, 0)
        await queue.aleave(await queue.aenter(ticket(NEXT, timeout=0)), 0, 0)
        await queue.aclose()

    async def test_a_denied_call_stands_aside_without_blocking_others(self) -> None:
        queue = self.make(pools(1))
        slot = await queue.aenter(ticket(ACME))
        parked = asyncio.create_task(queue.apark(ticket(ACME), slot, 0.2))
        await self.until_waiting(queue, 1)
        other = await queue.aenter(ticket(TWIN, timeout=0))
        await queue.aleave(other, 100, 0)
        again = await parked
        assert again.waited >= 0.19 and again.probe
        await queue.aprogress(again, 0)
        await queue.aleave(again, 100, 0)
        await queue.aclose()

    async def test_one_call_of_a_parked_tenant_tries_for_the_others(self) -> None:
        queue = self.make(pools(4))
        slots = [await queue.aenter(ticket(ACME)) for _ in range(3)]
        parked = [asyncio.create_task(queue.apark(ticket(ACME), slot, 0.05)) for slot in slots]
        done, _ = await asyncio.wait(parked, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.02)
        assert sum(task.done() for task in parked) == 1
        probe = done.pop().result()
        await queue.aprogress(probe, 0)
        for slot in await asyncio.wait_for(asyncio.gather(*parked), SOON):
            await queue.aleave(slot, 100, 0)
        await queue.aclose()

    async def test_models_without_a_pool_have_no_end_of_slots_and_park_in_order(self) -> None:
        queue, order = self.make(pools(1)), list[int]()
        slots = [await queue.aenter(ticket(ACME, model="other", timeout=0)) for _ in range(50)]

        async def retry(n: int, slot: Slot) -> None:
            again = await queue.apark(ticket(ACME, model="other"), slot, 0.05)
            order.append(n)
            if again.probe:
                await queue.aprogress(again, 0)
            await queue.aleave(again, 1, 1)

        await asyncio.gather(*(retry(n, slot) for n, slot in enumerate(slots)))
        assert order == list(range(50))
        await queue.aclose()

    async def test_a_line_has_a_cap(self) -> None:
        queue = self.make(pools(1, caps=LaneCaps(max_length=2)))
        slot = await queue.aenter(ticket(ACME))
        waits = [asyncio.create_task(queue.aenter(ticket(ACME))) for _ in range(2)]
        await self.until_waiting(queue, 2)
        with pytest.raises(RateLimited) as caught:
            await queue.aenter(ticket(ACME))
        assert (caught.value.limit, caught.value.used) == (2, 2)
        other = asyncio.create_task(queue.aenter(ticket(TWIN)))
        await self.until_waiting(queue, 3)
        await queue.aleave(slot, 1, 0)
        for wait in asyncio.as_completed((*waits, other)):
            await queue.aleave(await wait, 1, 0)
        await queue.aclose()

    async def test_a_call_that_never_ends_loses_its_slot(self) -> None:
        queue = self.make(pools(1, max_runtime=0.1))
        endless = await queue.aenter(ticket(ACME))
        other = await queue.aenter(ticket(TWIN))
        await queue.aleave(endless, 100, 5)
        with pytest.raises(RateLimited):
            await queue.aenter(ticket(NEXT, timeout=0))
        await queue.aleave(other, 1, 0)
        await queue.aclose()

    async def test_threads_and_loops_share_the_slots(self) -> None:
        queue, most, now, lock = self.make(pools(2)), 0, 0, threading.Lock()

        def count(by: int) -> None:
            nonlocal most, now
            with lock:
                now += by
                most = max(most, now)

        def thread(tenant: Tenant) -> None:
            for _ in range(10):
                slot = queue.enter(ticket(tenant, timeout=30))
                count(1)
                count(-1)
                queue.leave(slot, 10, 0)

        async def task(tenant: Tenant) -> None:
            for _ in range(10):
                slot = await queue.aenter(ticket(tenant, timeout=30))
                count(1)
                await asyncio.sleep(0.001)
                count(-1)
                await queue.aleave(slot, 10, 0)

        threads = [asyncio.to_thread(thread, tenant) for tenant in (ACME, TWIN, NEXT)]
        await asyncio.wait_for(asyncio.gather(*threads, *(task(tenant) for tenant in (ACME, TWIN))), 30)
        assert most <= 2 and now == 0
        (state,) = [pool for pool in queue.state() if pool.name == "p"]
        assert (state.running, state.waiting) == (0, 0)
        assert {lane.tenant_id: lane.served_calls for lane in state.lanes} == {"Acme": 20, "acme": 20, "acme2": 10}
        await queue.aclose()

    def test_a_tenant_that_left_is_forgotten_and_its_neighbour_is_not(self) -> None:
        queue = self.make(pools(2))
        for tenant in (ACME, TWIN):
            queue.leave(queue.enter(ticket(tenant)), 100, 7)
        running = queue.enter(ticket(ACME))
        assert queue.forget(ACME) == 1  # a call that runs keeps its slot
        queue.leave(running, 100, 7)
        assert queue.forget(ACME) == 1 and queue.forget(ACME) == 0
        (state,) = [pool for pool in queue.state() if pool.name == "p"]
        assert {lane.tenant_id: lane.served_calls for lane in state.lanes} == {"acme": 1}
        assert (state.running, state.waiting) == (0, 0)
        queue.leave(queue.enter(ticket(ACME, timeout=0)), 100, 0)
        queue.close()
