from __future__ import annotations

from tenant_middleware.admission.queueing.lane import Job, State
from tenant_middleware.admission.queueing.order import FirstInFirstOut, WeightedRoundRobin
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.terms import LaneCaps, PoolTerms


def job(tenant: str, prompt: int = 100, max_output: int = 0, weight: float = 1.0, model: str = "m") -> Job:
    return Job(tenant, model, prompt, max_output, weight)


def pool(slots: int | None = 1, **terms: object) -> Pool:
    return Pool(PoolTerms(slots, **terms))  # type: ignore[arg-type]  # shorthand for keywords


def drain(pool: Pool, now: float = 0.0, most: int = 1000) -> list[str]:
    """Serve everything, one job after the other, each using what its prompt says."""
    served = []
    while len(served) < most and (started := pool.pop(now)):
        served.append(started.tenant_id)
        pool.done(started, started.prompt_tokens, 0, now)
    return served


def test_a_flood_does_not_delay_the_others() -> None:
    line = pool()
    for _ in range(100):
        line.push(job("Acme"), 0.0)
    for tenant in ("acme", "acme2"):
        line.push(job(tenant), 0.0)
    assert drain(line)[:5] == ["Acme", "acme", "acme2", "Acme", "Acme"]


def test_tokens_count_not_jobs() -> None:
    line = pool()
    for _ in range(40):
        line.push(job("Acme", prompt=500), 0.0)
        line.push(job("acme", prompt=100), 0.0)
    first = drain(line, most=24)
    assert (first.count("Acme"), first.count("acme")) == (4, 20)


def test_weights_share_the_tokens_and_can_change_while_jobs_wait() -> None:
    line = pool()
    for _ in range(200):
        line.push(job("Acme", weight=3.0), 0.0)
        line.push(job("acme", weight=1.0), 0.0)
    served = drain(line, most=40)
    assert 29 <= served.count("Acme") <= 31
    line.push(job("acme", weight=3.0), 0.0)
    served = drain(line, most=40)
    assert 19 <= served.count("Acme") <= 21


def test_a_tenant_that_wakes_after_an_hour_has_earned_nothing() -> None:
    line = pool()
    line.push(job("acme"), 0.0)
    drain(line)
    for _ in range(2000):
        line.push(job("Acme"), 0.0)
    drain(line, most=1000)
    for _ in range(100):
        line.push(job("acme"), 3600.0)
    served = drain(line, 3600.0, most=20)
    assert 9 <= served.count("acme") <= 11


def test_the_learnt_mean_is_charged_not_the_maximum() -> None:
    line = pool(slots=None)
    line.push(job("Acme", 10, 2000), 0.0)
    first = line.pop(0.0)
    assert first is not None and first.charged == 10 + 2 * 256
    line.done(first, 10, 40, 0.0)
    line.push(job("Acme", 10, 2000), 0.0)
    second = line.pop(0.0)
    assert second is not None and second.charged == 10 + 2 * 40
    line.push(job("Acme", 10, 5), 0.0)
    third = line.pop(0.0)
    assert third is not None and third.charged == 10 + 2 * 5


def test_a_heartbeat_raises_the_charge_and_the_end_settles_it() -> None:
    line = pool(prior_output=10)
    for tenant in ("Acme", "acme"):
        for _ in range(4):
            line.push(job(tenant, 100, 1000), 0.0)
    started = line.pop(0.0)
    assert started is not None and (started.tenant_id, started.charged) == ("Acme", 120)
    line.progress(started, 5, 1.0)
    assert started.charged == 120
    line.progress(started, 50, 2.0)
    assert started.charged == 200
    line.done(started, 100, 60, 3.0)
    assert started.charged == 220


def test_a_refund_does_not_go_below_the_virtual_time() -> None:
    """A tenant that was charged far too much isn't owed a monopoly when the truth comes."""
    line = pool(slots=2, prior_output=10_000)
    line.push(job("Acme", 100, 10_000, model="big"), 0.0)
    big = line.pop(0.0)
    assert big is not None
    for _ in range(400):
        line.push(job("acme"), 0.0)
    drain(line, most=100)
    for _ in range(100):
        line.push(job("Acme"), 0.0)
    line.done(big, 100, 0, 0.0)
    served = drain(line, most=20)
    assert 9 <= served.count("Acme") <= 11


def test_ties_go_to_the_fewest_running_then_to_the_oldest() -> None:
    line = pool(slots=4)
    line.push(job("b", prompt=0), 0.0)
    line.push(job("b", prompt=0), 0.0)
    line.push(job("a", prompt=0), 0.0)
    started = [line.pop(0.0) for _ in range(3)]
    assert [each.tenant_id for each in started if each] == ["b", "a", "b"]


def test_cancelling_costs_nothing_and_leaves_nothing() -> None:
    line = pool()
    jobs = [job("Acme") for _ in range(1000)]
    for each in jobs:
        line.push(each, 0.0)
    line.push(job("acme"), 0.0)
    assert all(line.cancel(each, 0.0) for each in reversed(jobs))
    assert not line.cancel(jobs[0], 0.0)
    assert (line.queued, line.length("Acme")) == (1, 0)
    assert drain(line) == ["acme"]
    assert line.tallies.of("Acme").tokens == 0


def test_a_parked_tenant_steps_aside_and_comes_back_with_one_call() -> None:
    line = pool(slots=4)
    for _ in range(3):
        line.push(job("Acme"), 0.0)
    first, second = line.pop(0.0), line.pop(0.0)
    assert first is not None and second is not None
    line.park(second, 10.0, 0.0)
    line.park(first, 8.0, 0.0)
    line.push(job("acme"), 0.0)
    other = line.pop(0.0)
    assert other is not None and other.tenant_id == "acme" and line.pop(0.0) is None
    assert (first.charged, line.next_event()) == (0.0, 10.0)
    again = line.pop(10.0)
    assert again is first and again.probe and line.pop(10.0) is None
    line.progress(first, 0, 10.0)
    after = line.pop(10.0)
    assert after is second and not after.probe


def test_the_end_of_a_call_brings_its_parked_tenant_back_early() -> None:
    line = pool(slots=4)
    line.push(job("Acme"), 0.0)
    line.push(job("Acme"), 0.0)
    first, second = line.pop(0.0), line.pop(0.0)
    assert first is not None and second is not None
    line.park(second, 60.0, 0.0)
    assert line.pop(1.0) is None
    line.done(first, 100, 0, 1.0)
    assert line.pop(1.0) is second


def test_caps_on_running_calls_and_on_their_tokens() -> None:
    line = pool(slots=8, caps=LaneCaps(max_running=2))
    for _ in range(5):
        line.push(job("Acme"), 0.0)
    started = [line.pop(0.0) for _ in range(3)]
    assert started[1] is not None and started[2] is None
    line = pool(slots=8, caps=LaneCaps(max_tokens=1000))
    for prompt in (8000, 100):
        line.push(job("Acme", prompt), 0.0)
        line.push(job("acme", prompt // 100), 0.0)
    names = [each.tenant_id for each in iter(lambda: line.pop(0.0), None)]
    assert names == ["Acme", "acme", "acme"]


def test_length_cap() -> None:
    line = pool(caps=LaneCaps(max_length=2))
    line.push(job("Acme"), 0.0)
    assert not line.full("Acme")
    line.push(job("Acme"), 0.0)
    assert line.full("Acme") and not line.full("acme")


def test_a_lone_tenant_leaves_the_reserved_slots() -> None:
    line = pool(slots=8, reserve_slots=2)
    for _ in range(8):
        line.push(job("Acme"), 0.0)
    started = [line.pop(0.0) for _ in range(7)]
    assert started[5] is not None and started[6] is None
    line.push(job("acme"), 0.0)
    light = line.pop(0.0)
    assert light is not None and light.tenant_id == "acme"


def test_a_tenant_that_got_nothing_for_too_long_goes_first_but_a_flood_cannot_use_that() -> None:
    line = pool(max_wait=5.0)
    line.push(job("Acme", prompt=1_000_000), 0.0)
    for _ in range(100):
        line.push(job("acme"), 0.0)
        line.push(job("Acme"), 0.0)
    assert drain(line, 0.0, most=2) == ["Acme", "acme"]
    assert drain(line, 4.0, most=20) == ["acme"] * 20
    assert drain(line, 6.0, most=20) == ["Acme"] + ["acme"] * 19
    assert drain(line, 11.5, most=3) == ["Acme", "acme", "acme"]


def test_too_many_tenants_to_serve_each_in_time_do_not_undo_the_weights_nor_a_newcomers_turn() -> None:
    """All of forty floods have waited past `max_wait`: without the turns it would be one call each, oldest first."""
    line = pool(max_wait=10.0)
    for n in range(40):
        for _ in range(60):
            line.push(job(f"flood{n}", prompt=100 + n, weight=4.0 if n % 2 else 1.0), 0.0)
    served = [drain(line, float(second), most=1)[0] for second in range(400)]
    heavy = sum(int(tenant.removeprefix("flood")) % 2 for tenant in served)
    assert heavy > 2 * (len(served) - heavy)
    line.push(job("light"), 400.0)
    assert "light" in [drain(line, float(second), most=1)[0] for second in range(400, 405)]


def test_a_job_that_never_ends_loses_its_slot_once() -> None:
    line = pool(max_runtime=60.0)
    line.push(job("Acme"), 0.0)
    line.push(job("acme"), 0.0)
    endless = line.pop(0.0)
    assert endless is not None and line.pop(30.0) is None and line.overdue(60.0) == []
    assert line.next_event() == 60.0
    assert line.overdue(60.1) == [endless] and endless.state is State.OVERDUE
    other = line.pop(60.1)
    assert other is not None and other.tenant_id == "acme" and line.running == 1
    assert line.done(endless, 100, 900, 90.0) and not line.done(endless, 100, 900, 90.0)
    assert line.running == 1 and line.tallies.of("Acme").tokens == 100 + 2 * 900


def test_a_hundred_thousand_idle_tenants_are_forgotten() -> None:
    line = pool(slots=16)
    for n in range(100_000):
        line.push(job(f"t{n}"), 0.0)
        started = line.pop(0.0)
        assert started is not None
        line.done(started, 100, 0, 0.0)
    assert len(line.lanes) < 5


def test_round_robin_counts_jobs() -> None:
    line = Pool(PoolTerms(1), WeightedRoundRobin())
    for _ in range(40):
        line.push(job("Acme", prompt=500, weight=2.0), 0.0)
        line.push(job("acme", prompt=100, weight=1.0), 0.0)
    served = drain(line, most=30)
    assert served.count("Acme") == 20


def test_first_in_first_out() -> None:
    line = Pool(PoolTerms(1), FirstInFirstOut())
    for tenant in ("b", "a", "b", "a", "a"):
        line.push(job(tenant), 0.0)
    assert drain(line) == ["b", "a", "b", "a", "a"]
