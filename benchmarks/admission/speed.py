"""What one admission costs on a real Redis, beside the bare script and the limiters people use."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from statistics import median

from benchmarks.admission.contenders import TENANTS, Bare, Contender, Ours, new_id
from benchmarks.admission.peers import LimitsLibrary, LiteLLM, Pyrate, ThrottledPy
from benchmarks.side_by_side import Loop, Timings, interleaved
from tenant_middleware.local import local_redis

RUNS, TASKS = 11, 64
_turns = itertools.cycle(TENANTS)


class Bench:
    """Contenders on one Redis and one event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.new_event_loop()
        self.made: list[Contender] = []

    def make(self, kind: Callable[[str], Contender]) -> Contender:
        """A contender, made inside the loop it will run in."""

        async def inside() -> Contender:
            one = kind(self.url)
            if isinstance(one, Bare):
                await one.load()
            return one

        self.made.append(self.loop.run_until_complete(inside()))
        return self.made[-1]

    def cycles(self, one: Contender, tasks: int, *, settle: bool = True) -> Loop:
        """Admissions by so many tasks at once."""

        async def some(times: int) -> None:
            for tenant in itertools.islice(_turns, times):
                call_id = new_id()
                if not await one.reserve(tenant, call_id):
                    raise RuntimeError(f"{type(one).__name__} refused a call that its limits allow")
                if settle:
                    await one.settle(tenant, call_id)

        async def all_tasks(times: int) -> None:
            await asyncio.gather(*(some(times // tasks) for _ in range(tasks)))

        return lambda times: self.loop.run_until_complete(all_tasks(times))

    def close(self) -> None:
        for one in self.made:
            self.loop.run_until_complete(one.close())
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        gc.collect()


@contextmanager
def bench() -> Iterator[Bench]:
    with local_redis(modules=False) as url:
        made = Bench(url)
        try:
            yield made
        finally:
            made.close()


def unbatched(url: str) -> Contender:
    return Ours(url, batching=False)


@lru_cache(maxsize=1)
def crowd() -> Timings:
    """Reserve and settle by 64 tasks in one process."""
    with bench() as on:
        loops = {name: on.cycles(on.make(kind), TASKS) for name, kind in CYCLES.items()}
        return interleaved(loops, loops=64 * 30, runs=RUNS)


@lru_cache(maxsize=1)
def alone() -> Timings:
    """Reserve and settle, one after the other."""
    with bench() as on:
        loops = {name: on.cycles(on.make(kind), 1) for name, kind in CYCLES.items()}
        return interleaved(loops, loops=400, runs=RUNS)


@lru_cache(maxsize=1)
def peers() -> Timings:
    """Reserve alone, by 64 tasks: what the peers have too. 'bare' and 'ours' settle outside the time that counts."""
    with bench() as on:
        loops = {name: on.cycles(on.make(kind), TASKS, settle=False) for name, kind in (CYCLES | PEERS).items()}
        return interleaved(loops, loops=64 * 8, runs=7)


CYCLES: dict[str, Callable[[str], Contender]] = {"ours": Ours, "one by one": unbatched, "bare": Bare}
PEERS: dict[str, Callable[[str], Contender]] = {
    "limits": LimitsLibrary,
    "pyrate-limiter": Pyrate,
    "throttled-py": ThrottledPy,
    "LiteLLM v3": LiteLLM,
}


def per_second(timings: Timings) -> dict[str, float]:
    return {f"{name}/s": 1 / median(seconds) for name, seconds in timings.seconds.items()}
