"""A batch: in order, under its tenant, within the slots; refused jobs come again, failed ones stop it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tenant_middleware.admission.queueing.batch import PoolUse
from tenant_middleware.admission.queueing.in_process import InProcessQueue
from tenant_middleware.clock import SystemClock
from tenant_middleware.context import current_tenant
from tenant_middleware.errors import BudgetExceeded, RateLimited
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.queue import ACME, TWIN, pools


def limited(retry_after: float | None = 2.0) -> RateLimited:
    return RateLimited("later", rule="rpm", retry_after=retry_after)


class Counted:
    """Jobs that note who runs them and how many run at once."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.tenants: set[str] = set()

    def job(self, number: int) -> Callable[[], int]:
        def run() -> int:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
                self.tenants.add(current_tenant().id)
            with self.lock:
                self.now -= 1
            return number

        return run

    def ajob(self, number: int) -> Callable[[], object]:
        async def run() -> int:
            self.now += 1
            self.most = max(self.most, self.now)
            self.tenants.add(current_tenant().id)
            await asyncio.sleep(0)
            self.now -= 1
            return number

        return run


def test_results_come_in_the_order_of_the_jobs_and_in_slots() -> None:
    queue, counted = InProcessQueue(SystemClock(), pools(3)), Counted()
    use = PoolUse("m", prompt_tokens=10, used=lambda result: (10, result))
    assert queue.map(ACME, map(counted.job, range(50)), at_once=8, pool=use) == list(range(50))
    assert counted.most <= 3 and counted.tenants == {"Acme"}
    (state,) = queue.state()
    assert (state.running, state.waiting) == (0, 0)
    assert [(lane.tenant_id, lane.served_tokens) for lane in state.lanes] == [("Acme", 50 * 10 + 2 * sum(range(50)))]


async def test_two_batches_share_the_slots_of_a_pool() -> None:
    queue, counted = InProcessQueue(SystemClock(), pools(2)), Counted()
    batches = [
        queue.amap(tenant, map(counted.ajob, range(30)), at_once=10, pool=PoolUse("m", prompt_tokens=10))  # type: ignore[arg-type]  # jobs of the test
        for tenant in (ACME, TWIN)
    ]
    assert await asyncio.gather(*batches) == [list(range(30))] * 2
    assert counted.most == 2 and counted.tenants == {"Acme", "acme"}


async def test_without_a_pool_the_number_at_once_is_all_there_is() -> None:
    queue, counted = InProcessQueue(SystemClock()), Counted()
    assert await queue.amap(ACME, map(counted.ajob, range(30)), at_once=4) == list(range(30))  # type: ignore[arg-type]  # jobs of the test
    assert counted.most == 4 and queue.state() == ()


def test_a_refused_job_runs_again_when_its_time_has_come() -> None:
    clock, refusals = ManualClock(), [limited(2.0), limited(3.0)]

    def job() -> str:
        if refusals:
            raise refusals.pop(0)
        return "done"

    assert InProcessQueue(clock).map(ACME, [job], at_once=1) == ["done"]
    assert clock.time() == 5.0


@pytest.mark.parametrize("error", [limited(None), BudgetExceeded("spent", rule="budget"), ValueError("broken")])
async def test_any_other_error_stops_the_batch(error: Exception) -> None:
    queue, started = InProcessQueue(SystemClock(), pools(1)), list[int]()

    async def good(number: int) -> None:
        started.append(number)
        await asyncio.sleep(3600)

    async def bad() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await queue.amap(ACME, [good(1), bad(), *map(good, range(2, 9))], at_once=2)
    assert caught.value is error and len(started) <= 2

    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        queue.map(ACME, [fails] * 3, at_once=1)


async def test_a_cancelled_batch_gives_its_slots_back() -> None:
    queue = InProcessQueue(SystemClock(), pools(2))
    batch = asyncio.create_task(queue.amap(ACME, [lambda: asyncio.sleep(3600)] * 10, pool=PoolUse("m"), progress=False))
    while not queue.state() or queue.state()[0].running < 2:  # noqa: ASYNC110 - a batch tells nobody how far it is
        await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    (state,) = queue.state()
    assert (state.running, state.waiting) == (0, 0)
