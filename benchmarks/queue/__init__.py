"""The fair queue: what light tenants wait beside a flood, who gets the capacity, and what a call costs the queue.

Simulated on the scheduler that ships, then real on Redis with four worker processes.
"""

from __future__ import annotations

from benchmarks.entries import Area, Measured
from benchmarks.queue import growth, real, table
from benchmarks.queue.baselines import IDEAL, OURS

AREA = Area(
    "queue",
    required=[
        "queue.light_p99_vs_ideal",
        "queue.jain",
        "queue.utilisation",
        "queue.gap_s",
        "queue.redis_jain",
        "queue.redis_light_p99_ms",
        "queue.cost_growth",
    ],
)
OTHERS = tuple(name for name in table.BESIDE if name != OURS.name)


@AREA.entry("queue.light_p99_vs_ideal", unit="ratio", better="lower", target=1.4)
def light_p99_vs_ideal() -> Measured:
    """The light tenants' p99 over that of tokens charged as they are written; the worst workload counts."""
    cells = table.cells()
    ratios = {name: cells[name, OURS.name].p99 / cells[name, IDEAL.name].p99 for name in table.WORKLOADS}
    worst = {f"p99 s, flood 1,000: {other}": cells["flood 1,000", other].p99 for other in (OURS.name, *OTHERS)}
    return Measured([max(ratios.values())], ratios | worst)


@AREA.entry("queue.jain", unit="index", better="higher", target=0.98)
def jain() -> Measured:
    """Jain's index of weighted tokens per weight among the floods; the worst workload and seed count."""
    return Measured([_worst("jain", OURS.name)], {other: _worst("jain", other) for other in OTHERS})


@AREA.entry("queue.utilisation", unit="share", better="higher", target=0.99)
def utilisation() -> Measured:
    """Slots in use while somebody waits; the worst workload and seed count."""
    return Measured([_worst("utilisation", OURS.name)], {other: _worst("utilisation", other) for other in OTHERS})


@AREA.entry("queue.gap_s", unit="s", better="lower", target=30.0)
def gap_s() -> Measured:
    """The longest time a waiting tenant got nothing; the target is `max_wait`, below the bound of any workload."""
    cells = table.cells()
    bounds = {f"bound, {name}": cells[name, OURS.name].bound for name in table.WORKLOADS}
    return Measured([max(cells[name, OURS.name].gap for name in table.WORKLOADS)], bounds)


def _worst(figure: str, scheduler: str) -> float:
    return min(getattr(table.cells()[name, scheduler], figure) for name in table.WORKLOADS)


@AREA.entry("queue.redis_jain", unit="index", better="higher", target=0.98)
def redis_jain() -> Measured:
    """The floods' shares of weighted tokens in the real run, 5x different sizes."""
    beside = {policy: real.runs(policy, 1)[0].jain for policy in ("wrr", "fifo")}
    return Measured([seen.jain for seen in real.runs("vtc", 3)], beside)


@AREA.entry("queue.redis_light_p99_ms", unit="ms", better="lower", target=60)
def redis_light_p99_ms() -> Measured:
    """What nine light tenants waited in the real run, from asking to holding a slot."""
    ours = real.runs("vtc", 3)
    beside = {f"p99 {policy}": real.runs(policy, 1)[0].p99 for policy in ("wrr", "fifo")}
    return Measured([seen.p99 for seen in ours], {"p50": ours[0].p50, "calls": ours[0].calls} | beside)


@AREA.entry("queue.cost_growth", unit="x log", better="lower", target=1.0)
def cost_growth() -> Measured:
    """Growth of a call's cost from 10 to 100,000 waiting tenants over that of their logarithm; the worse of both."""
    costs = growth.costs()
    beside = {f"us {place}, {size:,}": cost for place, sizes in costs.items() for size, cost in sizes.items()}
    return Measured([max(growth.over_log(sizes) for sizes in costs.values())], beside)
