from __future__ import annotations

import asyncio
import threading

import pytest

from tenant_middleware.errors import InvalidInput
from tenant_middleware.testing import ManualClock


def test_time_moves_only_by_hand() -> None:
    clock = ManualClock(100.0)
    assert clock.time() == 100.0
    clock.advance(2.5)
    clock.sleep(1.5)
    clock.sleep(-3)
    assert clock.time() == 104.0


def test_set_turns_the_clock_back() -> None:
    clock = ManualClock(100.0)
    clock.set(40.0)
    assert clock.time() == 40.0
    with pytest.raises(InvalidInput):
        clock.advance(-1)
    with pytest.raises(InvalidInput):
        clock.advance(float("nan"))


async def test_sleepers_wake_in_the_order_of_their_ends() -> None:
    clock = ManualClock(0.0)
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.asleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2)]
    await asyncio.sleep(0)
    assert clock.sleepers == 3
    clock.advance(1)
    await tasks[1]
    assert woken == [1] and clock.sleepers == 2
    clock.set(-100.0)
    clock.advance(2)
    await asyncio.gather(*tasks)
    assert woken == [1, 2, 3] and clock.sleepers == 0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock(0.0)
    task = asyncio.create_task(clock.asleep(5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    clock.advance(10)


async def test_advance_from_another_thread_wakes_the_loop() -> None:
    clock = ManualClock(0.0)
    task = asyncio.create_task(clock.asleep(5))
    await asyncio.sleep(0)
    thread = threading.Thread(target=clock.advance, args=(5,))
    thread.start()
    await asyncio.wait_for(task, timeout=5)
    thread.join()


async def test_no_time_to_wait_still_yields() -> None:
    clock = ManualClock(0.0)
    await asyncio.wait_for(clock.asleep(0), timeout=5)
    await asyncio.wait_for(clock.asleep(-1), timeout=5)
    assert clock.sleepers == 0
