"""The real run: four worker processes, 16 slots in Redis, two floods of 5x different sizes, nine light tenants."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache

from benchmarks.queue.simulation import jain, quantile
from benchmarks.queue.workloads import LIGHT
from tenant_middleware.local import local_redis

WORKERS = 4
START_S = 4.0  # until every worker has imported what it needs


@dataclass(frozen=True, slots=True)
class Seen:
    """Waits of the light tenants in milliseconds, and how evenly the floods shared the tokens."""

    p50: float
    p99: float
    jain: float
    calls: int
    tokens_per_s: float


def one(url: str, order: str, seed: int) -> Seen:
    begins = time.time() + START_S
    command = [sys.executable, "-m", "benchmarks.queue.real_worker", url, order]
    workers = [
        subprocess.Popen(
            [*command, str(seed * WORKERS + number), str(begins), *LIGHT[number::WORKERS]],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WORKERS)
    ]
    told = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    waits = [wait * 1000 for each in told for wait in each["waits"]]
    tokens = [sum(each["tokens"].get(flood, 0.0) for each in told) for flood in "AK"]
    total = sum(sum(each["tokens"].values()) for each in told)
    return Seen(quantile(waits, 0.5), quantile(waits, 0.99), jain(tokens), len(waits), total / 8.0)


@cache
def runs(order: str, times: int) -> tuple[Seen, ...]:
    """That many runs of a policy, each on an empty server."""
    found = []
    for seed in range(times):
        with local_redis(modules=False) as url:
            found.append(one(url, order, seed))
    return tuple(found)
