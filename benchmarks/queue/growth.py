"""What one call costs a queue in which so many tenants wait: put in line, one that runs ends, the next one starts."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from functools import cache
from statistics import median

from redis import Redis

from benchmarks.side_by_side import no_collector
from tenant_middleware.admission.queue import Ticket
from tenant_middleware.admission.queueing.lane import Job
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.pools import PoolRule
from tenant_middleware.admission.queueing.signal import ThreadSignal
from tenant_middleware.admission.queueing.terms import PoolTerms
from tenant_middleware.backends.redis.links import Links
from tenant_middleware.backends.redis.queue import _SCRIPT
from tenant_middleware.backends.redis.shared_pool import Lease, Server, SharedPool
from tenant_middleware.backends.redis.steps import Flow, Nodes
from tenant_middleware.local import local_redis
from tenant_middleware.tenant import Tenant

TENANTS = (10, 1_000, 100_000)
SLOTS = 4
RUNS, LOOPS = 9, 200
FOREVER = 1e8


def in_process(tenants: int) -> Callable[[], None]:
    """A pool with so many tenants in line, and a step that leaves it as it was."""
    pool, names = Pool(PoolTerms(SLOTS, max_wait=FOREVER)), itertools.cycle(range(tenants))
    for number in range(tenants):
        pool.push(Job(f"t{number}", "m", 100, 100, 1.0), 0.0)
    running = [job for _ in range(SLOTS) if (job := pool.pop(0.0)) is not None]

    def step() -> None:
        pool.push(Job(f"t{next(names)}", "m", 100, 100, 1.0), 0.0)
        pool.done(running.pop(0), 100, 50, 0.0)
        started = pool.pop(0.0)
        if started is None:
            raise RuntimeError("a slot is free and nobody starts")
        running.append(started)

    return step


class Shared:
    """The same with `queue.lua`; grants are fetched as a listener does, from the worker's box."""

    def __init__(self, url: str, tenants: int) -> None:
        self._client, self._links = Redis.from_url(url), Links(url, 60.0)
        nodes = Nodes(self._links.first)
        rule = PoolRule(f"p{tenants}", ("m",), PoolTerms(SLOTS, max_wait=FOREVER, max_runtime=FOREVER))
        self._pool = SharedPool(rule, "w", FOREVER, Server(nodes, _SCRIPT), lambda: None)
        self._names, self._running = itertools.cycle(range(tenants)), list[Lease]()
        for number in range(tenants):
            lease = self._push(number)
            if lease.ready:
                self._running.append(lease)

    def _push(self, number: int) -> Lease:
        ticket = Ticket(Tenant(f"t{number}", "free"), "", "m", 100, 100, 1.0, FOREVER)
        lease = self._pool.lease(ticket, ThreadSignal(), 0.0)
        self._run(self._pool.enter(lease))
        return lease

    def _run(self, flow: Flow[None]) -> None:
        self._links.run(flow)

    def step(self) -> None:
        self._push(next(self._names))
        self._run(self._pool.leave(self._running.pop(0), 100, 50))
        word = self._client.lpop(self._pool.box)
        if not isinstance(word, bytes):
            raise RuntimeError("a slot is free and nobody starts")
        job = word.decode()
        lease = self._pool.asked[job]
        self._pool.granted(job, 0, probe=False)
        self._running.append(lease)

    def close(self) -> None:
        self._client.close()
        self._links.close()


def _timed(steps: dict[int, Callable[[], None]], clock: Callable[[], float]) -> dict[int, float]:
    """Microseconds of a step at each size: medians over runs that take turns."""
    taken: dict[int, list[float]] = {size: [] for size in steps}
    for step in steps.values():
        for _ in range(LOOPS):
            step()
    for _ in range(RUNS):
        for size, step in steps.items():
            with no_collector():
                began = clock()
                for _ in range(LOOPS):
                    step()
                taken[size].append((clock() - began) / LOOPS * 1e6)
    return {size: median(runs) for size, runs in taken.items()}


@cache
def costs() -> dict[str, dict[int, float]]:
    """Microseconds of one call by place and number of tenants."""
    found = {"in process": _timed({size: in_process(size) for size in TENANTS}, time.process_time)}
    with local_redis(modules=False) as url:
        pools = {size: Shared(url, size) for size in TENANTS}
        found["Redis"] = _timed({size: pool.step for size, pool in pools.items()}, time.perf_counter)
        for pool in pools.values():
            pool.close()
    return found


def over_log(costs: dict[int, float]) -> float:
    """How much faster than the logarithm of the tenants the cost grows, at worst; 1 is just as fast."""
    least = min(costs)
    return max(
        (cost / costs[least]) / (math.log(size) / math.log(least)) for size, cost in costs.items() if size != least
    )
