"""Tokens a minute under eight processes: the fullest sliding minute, and how much of the quota is of use.

In real minutes on the server's own clock. Three tenants estimate wrongly by as much each call, a fourth is limited by
requests; all are always hungry.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from benchmarks.admission.contenders import new_id
from benchmarks.admission.crowd import crowd
from tenant_middleware.admission.store import Ask, Granted, Limits, Settlement
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.local import local_redis
from tenant_middleware.tenant import Tenant

MINUTE, SECONDS = 60.0, 126.0
TPM, RPM, BURST = 60_000, 600, 0.1
SMALLEST, LARGEST = 100, 300
LATENCY = 0.05
TASKS = 3


class Regime(NamedTuple):
    """A tenant and how it estimates: `factor` times what its calls use."""

    tenant: Tenant
    factor: float
    limits: Limits
    limit: int
    largest: int


_TOKENS = Limits(None, TPM, BURST, None, None, "month")
REGIMES = (
    Regime(Tenant("too-high", "gold"), 4.0, _TOKENS, TPM, LARGEST),
    Regime(Tenant("right", "gold"), 1.0, _TOKENS, TPM, LARGEST),
    Regime(Tenant("too-low", "gold"), 1 / 3, _TOKENS, TPM, LARGEST),
    Regime(Tenant("requests", "gold"), 1.0, Limits(RPM, None, BURST, None, None, "month"), RPM, 1),
)
Event = tuple[float, int]


class Window(NamedTuple):
    """The fullest sliding minute over the limit, less the largest call's share; the use of the last minute."""

    worst: float
    used: float


@lru_cache(maxsize=1)
def windows() -> dict[str, Window]:
    """By tenant."""
    with local_redis(modules=False) as url:
        reports = crowd(_worker, url)
    return {
        regime.tenant.id: _window(sorted(event for report in reports for event in report[regime.tenant.id]), regime)
        for regime in REGIMES
    }


def _window(events: list[Event], regime: Regime) -> Window:
    fullest = first = total = 0
    for at, amount in events:
        total += amount
        while events[first][0] <= at - MINUTE:
            total -= events[first][1]
            first += 1
        fullest = max(fullest, total)
    end = events[0][0] + SECONDS
    last = sum(amount for at, amount in events if end - MINUTE <= at < end)
    return Window((fullest - regime.largest) / regime.limit, last / regime.limit)


def _worker(number: int, begin: Callable[[], object], url: str) -> dict[str, list[Event]]:
    return asyncio.run(_all(number, begin, url))


async def _all(number: int, begin: Callable[[], object], url: str) -> dict[str, list[Event]]:
    store = RedisAdmission(url, timeout=10.0)
    events: dict[str, list[Event]] = {regime.tenant.id: [] for regime in REGIMES}
    await asyncio.to_thread(begin)
    end = time.time() + SECONDS
    hungry = [
        _hungry(store, regime, events[regime.tenant.id], end, random.Random(f"{number}-{task}"))
        for regime in REGIMES
        for task in range(TASKS)
    ]
    await asyncio.gather(*hungry)
    await store.aclose()
    return events


async def _hungry(store: RedisAdmission, regime: Regime, events: list[Event], end: float, dice: random.Random) -> None:
    tenant, limits = regime.tenant, regime.limits
    while time.time() < end:
        call_id, used = new_id(), dice.randint(SMALLEST, LARGEST)
        asked = Ask(tenant, call_id, limits, max(round(used * regime.factor), 1), 0, 0, 0, 0, 120.0, call_id)
        answer = await store.areserve(asked)
        if isinstance(answer, Granted):
            events.append((time.time(), used if limits.tpm else 1))
            await asyncio.sleep(LATENCY)
            await store.asettle(Settlement(tenant, call_id, limits, used, 0, None))
        else:
            await asyncio.sleep(min(answer.retry_after or 0.1, 1.0))
