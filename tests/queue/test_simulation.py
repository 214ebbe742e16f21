"""The simulation that the benchmark reports on tells fair from unfair, on one seed of three workloads."""

from __future__ import annotations

import random

import pytest

from benchmarks.__main__ import area
from benchmarks.queue import baselines, workloads
from benchmarks.queue.baselines import IDEAL, OURS, Scheduler
from benchmarks.queue.growth import TENANTS, in_process, over_log
from benchmarks.queue.simulation import Outcome, Simulation, quantile
from benchmarks.queue.table import SCHEDULERS, SLOTS

NAMES = {scheduler.name: scheduler for scheduler in baselines.ALL}


def run(make: object, scheduler: Scheduler) -> Outcome:
    work = make(random.Random(7))  # type: ignore[operator]  # a maker of workloads
    return Simulation(work, scheduler.pool(SLOTS), scheduler.heartbeat, scheduler.as_written).run()


def p99(outcome: Outcome) -> float:
    return quantile(outcome.light_waits, 0.99)


@pytest.mark.parametrize("make", [workloads.flood, workloads.two_sizes, workloads.tiers])
def test_ours_is_near_the_ideal(make: object) -> None:
    ours, ideal = run(make, OURS), run(make, IDEAL)
    assert p99(ours) <= 1.8 * p99(ideal)
    assert ours.jain >= 0.98 and ours.utilisation >= 0.99 and ours.gap <= 30.0


def test_the_measures_show_what_others_lack() -> None:
    ours = run(workloads.two_sizes, OURS)
    assert p99(run(workloads.two_sizes, NAMES["first in, first out"])) > 100 * p99(ours)
    assert run(workloads.two_sizes, NAMES["weighted round robin, by calls"]).jain < 0.7 < ours.jain


def test_without_the_lift_a_late_flood_starves_the_early_one() -> None:
    assert run(workloads.late_flood, NAMES["VTC as shipped, no lift"]).gap > 5 * run(workloads.late_flood, OURS).gap


def test_every_measured_name_has_an_entry() -> None:
    found = area("queue")
    assert found is not None and not found.missing and len(found.required) == 7
    assert set(SCHEDULERS) == set(NAMES)


def test_growth_is_told_against_the_logarithm() -> None:
    assert over_log(dict(zip(TENANTS, (10.0, 30.0, 50.0), strict=True))) == pytest.approx(1.0)
    assert over_log({10: 10.0, 100: 100.0}) == pytest.approx(5.0)
    step = in_process(10)
    for _ in range(50):
        step()
