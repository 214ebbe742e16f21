"""The simulated workloads under several schedulers, five seeds each: who waits how long, and who gets what."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

from benchmarks.queue import baselines, workloads
from benchmarks.queue.baselines import IDEAL, OURS, Scheduler
from benchmarks.queue.simulation import Simulation, quantile

SLOTS = 16
SEEDS = range(5)
WORKLOADS = {make(random.Random(0)).name: make for make in workloads.ALL}
SCHEDULERS = {scheduler.name: scheduler for scheduler in baselines.ALL}
# What the measured figures are set beside.
BESIDE = (
    OURS.name,
    IDEAL.name,
    "first in, first out",
    "weighted round robin, by calls",
    "deficit round robin, max_tokens",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload under one scheduler; waits of the light tenants in seconds, over all seeds together."""

    p50: float
    p99: float
    jain: float
    utilisation: float
    gap: float
    bound: float
    waits: tuple[float, ...]


def run(workload: str, scheduler: str) -> Cell:
    made: Scheduler = SCHEDULERS[scheduler]
    outcomes, tenants = [], 0
    for seed in SEEDS:
        work = WORKLOADS[workload](random.Random(seed))
        tenants = len({arrival.tenant for arrival in work.arrivals})
        outcomes.append(Simulation(work, made.pool(SLOTS), made.heartbeat, made.as_written).run())
    waits = [wait for outcome in outcomes for wait in outcome.light_waits]
    longest = max(outcome.longest_run for outcome in outcomes)
    return Cell(
        p50=quantile(waits, 0.50),
        p99=quantile(waits, 0.99),
        jain=min(outcome.jain for outcome in outcomes),
        utilisation=min(outcome.utilisation for outcome in outcomes),
        gap=max(outcome.gap for outcome in outcomes),
        bound=made.max_wait + longest * (1 + 4 * tenants / SLOTS),
        waits=tuple(sorted(waits)),
    )


@cache
def cells(schedulers: Sequence[str] = BESIDE) -> dict[tuple[str, str], Cell]:
    """Every workload under each of these schedulers."""
    pairs = [(workload, scheduler) for workload in WORKLOADS for scheduler in schedulers]
    with ProcessPoolExecutor(2) as pool:
        return dict(zip(pairs, pool.map(run, *zip(*pairs, strict=True)), strict=True))


def lines(found: dict[tuple[str, str], Cell], schedulers: Sequence[str]) -> Iterator[str]:
    """A Markdown table: p50 / p99 of the light tenants in seconds, and Jain's index where there are several floods."""
    yield f"| | {' | '.join(WORKLOADS)} | utilisation |"
    yield f"|---|{'---|' * (len(WORKLOADS) + 1)}"
    for scheduler in schedulers:
        row = [found[workload, scheduler] for workload in WORKLOADS]
        shown = [_shown(name, cell) for name, cell in zip(WORKLOADS, row, strict=True)]
        yield f"| {scheduler} | {' | '.join(shown)} | {min(cell.utilisation for cell in row):.2f} |"


def _shown(workload: str, cell: Cell) -> str:
    floods = WORKLOADS[workload](random.Random(0)).floods
    waits = f"{cell.p50:.2f} / {cell.p99:.2f}"
    return waits if len(floods) == 1 else f"{waits}, J {cell.jain:.2f}"
