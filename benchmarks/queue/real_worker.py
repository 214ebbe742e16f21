"""One worker of the real run: its share of the floods and of the light tenants, on one pool in Redis.

The upstream takes a time for each token; nothing but that sleep is made up.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
import time
from collections import defaultdict

from tenant_middleware.admission.queue import Ticket
from tenant_middleware.admission.queueing.pools import OrderName, PoolRule, Pools
from tenant_middleware.admission.queueing.terms import PoolTerms
from tenant_middleware.backends.redis.queue import RedisQueue
from tenant_middleware.tenant import Tenant

SLOTS = 16
BEFORE_S, MEASURED_S = 2.0, 8.0
PROMPT_S, OUTPUT_S = 0.000_02, 0.000_5
BIG, SMALL = (1000, 250), (200, 50)  # mean prompt and output tokens
FLOOD_TASKS = 16
LIGHT_EVERY_S = 0.25


class Worker:
    """What it sees in the measured seconds: waits of its light calls, and weighted tokens by flood."""

    def __init__(self, queue: RedisQueue, seed: int, begins: float) -> None:
        self._queue, self._rng = queue, random.Random(seed)
        self._from, self._until = begins + BEFORE_S, begins + BEFORE_S + MEASURED_S
        self.waits: list[float] = []
        self.tokens: defaultdict[str, float] = defaultdict(float)

    async def flood(self, tenant: str, sizes: tuple[int, int]) -> None:
        while time.time() < self._until:
            await self._call(tenant, sizes)

    async def light(self, tenant: str) -> None:
        while time.time() < self._until:
            await asyncio.sleep(self._rng.expovariate(1 / LIGHT_EVERY_S))
            began = time.time()
            wait = await self._call(tenant, SMALL)
            if self._from <= began < self._until:
                self.waits.append(wait)

    async def _call(self, tenant: str, sizes: tuple[int, int]) -> float:
        prompt, output = (self._log_normal(mean) for mean in sizes)
        ticket = Ticket(Tenant(tenant, "t"), "", "m", prompt, 1024, 1.0, 120.0)
        asked = time.perf_counter()
        slot = await self._queue.aenter(ticket)
        waited = time.perf_counter() - asked
        await asyncio.sleep(prompt * PROMPT_S + output * OUTPUT_S)
        await self._queue.aleave(slot, prompt, output)
        if self._from <= time.time() < self._until:
            self.tokens[tenant] += prompt + 2 * output
        return waited

    def _log_normal(self, mean: int, sigma: float = 0.5) -> int:
        return max(1, round(self._rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)))


async def main(url: str, order: OrderName, seed: int, begins: float, light: list[str]) -> None:
    rule = PoolRule("real", ("m",), PoolTerms(SLOTS, prior_output=100), order)
    queue = RedisQueue(url, Pools([rule]), grace=0.0, timeout=10.0)
    worker = Worker(queue, seed, begins)
    await asyncio.sleep(max(begins - time.time(), 0.0))
    floods = [worker.flood(tenant, sizes) for tenant, sizes in (("A", BIG), ("K", SMALL)) for _ in range(FLOOD_TASKS)]
    await asyncio.gather(*floods, *(worker.light(tenant) for tenant in light))
    await queue.aclose()
    sys.stdout.write(json.dumps({"waits": worker.waits, "tokens": worker.tokens}) + "\n")


if __name__ == "__main__":
    url, order, seed, begins, *light = sys.argv[1:]
    if order not in ("vtc", "wrr", "fifo"):
        raise SystemExit(f"unknown policy {order}")
    asyncio.run(main(url, order, int(seed), float(begins), light))
