"""Simulated traffic of many tenants: heavy tails, a daily rhythm, tenants of all sizes that differ a little."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tenant_middleware.metering.observations import STAGE, Observed, bucket

HOUR = 3_600
# Median seconds of a stage, and the spread of its logarithm.
STAGES = {
    "queue": (0.05, 1.2),
    "guard": (0.0004, 0.4),
    "cache": (0.002, 0.5),
    "retrieval": (0.02, 0.7),
    "ingest": (0.1, 0.8),
    "first_token": (0.4, 0.8),
    "generation": (0.02, 0.5),
    "tool": (0.3, 1.0),
}


@dataclass(frozen=True)
class Slowdown:
    """One stage of one tenant, or of everybody, takes so many times longer."""

    stage: str
    factor: float = 2.0
    tenant: str | None = None


def day(
    dice: random.Random,
    *,
    tenants: int = 50,
    slow: Slowdown | None = None,
    calls_of_slow: int = 200,
    start: int = 0,
    differences: random.Random | None = None,
) -> list[Observed]:
    """One day of calls, counted per hour. `differences` draws what distinguishes tenants, the same on each day."""
    own = differences or dice
    counts: Counter[tuple[int, str, str, int]] = Counter()
    for number in range(tenants):
        name = f"t{number:02d}"
        calls = round(min(40 * own.paretovariate(0.9), 3_000))
        if slow is not None and slow.tenant == name:
            calls = calls_of_slow
        factors = {stage: own.lognormvariate(0, 0.1) for stage in STAGES}
        busiest = own.uniform(6, 20)
        for hour in _hours(dice, calls, busiest):
            for stage, seconds in _call(dice, hour, factors, slow, name):
                counts[start + hour * HOUR, name, STAGE + stage, bucket(seconds)] += 1
    return [Observed(*key, times) for key, times in counts.items()]


def _hours(dice: random.Random, calls: int, busiest: float) -> Iterator[int]:
    for _ in range(calls):
        yield int(dice.gauss(busiest, 4)) % 24


def _call(
    dice: random.Random, hour: int, factors: dict[str, float], slow: Slowdown | None, tenant: str
) -> Iterator[tuple[str, float]]:
    busy = 1 + 0.6 * math.sin(math.pi * (hour - 6) / 12)
    for stage, (typical, spread) in STAGES.items():
        seconds = typical * factors[stage] * busy * dice.lognormvariate(0, spread)
        if dice.random() < 0.02:  # a retry, a cold start, a pause of the collector
            seconds *= dice.uniform(5, 30)
        if slow is not None and slow.stage == stage and slow.tenant in (None, tenant):
            seconds *= slow.factor
        yield stage, seconds
