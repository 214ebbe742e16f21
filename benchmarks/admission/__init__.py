"""Limits and budgets on a real Redis: what one admission costs, and whether they hold across processes.

Everything runs against a server of our own on loopback; `bare.lua` is the script one would write by hand.
"""

from __future__ import annotations

from benchmarks.admission import budget, ledger, speed, windows
from benchmarks.entries import Area, Measured

AREA = Area(
    "admission",
    required=[
        "admission.vs_bare_script_64",
        "admission.vs_bare_script_sequential",
        "admission.batching_gain",
        "admission.window_worst",
        "admission.quota_usable",
        "admission.budget_served_ratio",
        "admission.budget_overspend",
        "admission.ledger_lost",
        "admission.ledger_nano_diff",
    ],
)


@AREA.entry("admission.vs_bare_script_64", unit="ratio", better="higher", target=0.85)
def vs_bare_script_64() -> Measured:
    """Admissions a second, reserved and settled by 64 tasks, over the bare script's."""
    timings = speed.crowd()
    reserve_only = {f"reserve only: {name}": value for name, value in speed.per_second(speed.peers()).items()}
    return Measured(timings.ratios("bare", "ours"), speed.per_second(timings) | reserve_only)


@AREA.entry("admission.vs_bare_script_sequential", unit="ratio", better="lower", target=1.2)
def vs_bare_script_sequential() -> Measured:
    """Time of one admission, reserved and settled alone, over the bare script's."""
    timings = speed.alone()
    return Measured(timings.ratios("ours", "bare"), {"ours us": timings.us("ours"), "bare us": timings.us("bare")})


@AREA.entry("admission.batching_gain", unit="ratio", better="higher", target=1.5)
def batching_gain() -> Measured:
    """Admissions a second by 64 tasks that share pipelines, over those with a connection for each task."""
    return Measured(speed.crowd().ratios("one by one", "ours"))


@AREA.entry("admission.window_worst", unit="x limit", better="lower", target=1.15)
def window_worst() -> Measured:
    """The fullest sliding minute over the limit, less the largest call's share: the worst of all tenants."""
    found = windows.windows()
    return Measured([max(one.worst for one in found.values())], {name: one.worst for name, one in found.items()})


@AREA.entry("admission.quota_usable", unit="x limit", better="higher", target=0.95)
def quota_usable() -> Measured:
    """What hungry callers got of the last minute's quota: the least of all tenants."""
    found = windows.windows()
    return Measured([min(one.used for one in found.values())], {name: one.used for name, one in found.items()})


@AREA.entry("admission.budget_served_ratio", unit="x budget", better="higher", target=0.9, limit=1.0)
def budget_served_ratio() -> Measured:
    """The money that served calls cost over the budget: the least of all runs."""
    found = budget.outcomes()
    beside = {f"whole answers, {name}": min(one.whole_answers for one in runs) for name, runs in found.items()}
    return Measured([min(one.spent for runs in found.values() for one in runs)], beside)


@AREA.entry("admission.budget_overspend", unit="x budget", better="lower", target=1.0)
def budget_overspend() -> Measured:
    """The money spent over the budget: the most of all runs."""
    return Measured([max(one.spent for runs in budget.outcomes().values() for one in runs)])


@AREA.entry("admission.ledger_lost", unit="calls", better="lower", target=0)
def ledger_lost() -> Measured:
    """Calls that were settled and are not in the ledger, of 20,000 by eight processes under 20 random kills."""
    found = ledger.killed()
    return Measured([found.lost], found.beside())


@AREA.entry("admission.ledger_nano_diff", unit="nano-USD", better="lower", target=0)
def ledger_nano_diff() -> Measured:
    """How far the ledger's money is from what was settled, and from what Redis has counted: the larger of both."""
    found = ledger.killed()
    return Measured([max(abs(found.nano_diff), abs(found.redis_diff))])
