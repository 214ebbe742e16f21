"""Strict tiers reserve the cap and never overspend; adaptive ones reserve what was learnt, and by how much they may."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tenant_middleware.admission.call import Call, Hold
from tenant_middleware.admission.store import Limits
from tenant_middleware.context import scope
from tenant_middleware.errors import BudgetBusy, BudgetExceeded, RateLimited
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

Make = Callable[..., Any]
WIDE = {"max_output_tokens": 1_000, "max_concurrency": 10_000, "rpm": "unlimited", "tpm": "unlimited"}
NANO = 2_000  # one output token of chat/one


def call(tenant: Tenant, *, stream: bool = False, prompt: int = 0, cap: int | None = None) -> Call:
    return Call(tenant, "chat/one", prompt_tokens=prompt, max_tokens=cap, stream=stream)


def learn(bench: Any, tenant: Tenant, output: int, times: int = 8) -> None:
    with scope(tenant):
        for _ in range(times):
            hold = bench.gate.admit(call(tenant))
            bench.gate.settle(hold, Usage(0, output))


def spent(bench: Any, tenant: Tenant) -> int:
    return int(bench.store.balance(tenant, Limits.of(bench.gate.policy.for_tenant(tenant))).spent_nano)


def reserved(bench: Any, tenant: Tenant) -> int:
    return int(bench.store.balance(tenant, Limits.of(bench.gate.policy.for_tenant(tenant))).reserved_nano)


@pytest.mark.parametrize("seed", range(20))
def test_a_strict_tier_never_overspends(make_gate: Make, acme: Tenant, seed: int) -> None:
    """Whatever is asked, in whatever order calls end, as long as the provider keeps the cap it was sent."""
    dice = random.Random(seed)
    bench = make_gate(**WIDE, budget={"usd": "0.01"})
    flying: list[Hold] = []
    with scope(acme):
        for _ in range(300):
            if flying and dice.random() < 0.4:
                hold = flying.pop(dice.randrange(len(flying)))
                bench.gate.settle(hold, Usage(dice.randint(0, hold.call.prompt_tokens), hold.max_tokens))
            else:
                try:
                    cap = dice.choice([None, 16, 100, 5_000])
                    flying.append(bench.gate.admit(call(acme, prompt=dice.randint(0, 400), cap=cap)))
                except BudgetExceeded:
                    pass
            assert spent(bench, acme) + reserved(bench, acme) <= 10_000_000
        for hold in flying:
            bench.gate.settle(hold, Usage(hold.call.prompt_tokens, hold.max_tokens))
    assert 9_900_000 <= spent(bench, acme) <= 10_000_000


def test_an_adaptive_tier_reserves_the_cap_until_it_has_learnt(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(**WIDE, estimate="adaptive")
    with scope(acme):
        first = bench.gate.admit(call(acme))
        assert (first.max_tokens, reserved(bench, acme)) == (1_000, 1_000 * NANO)
        bench.gate.settle(first, Usage(0, 50))
    learn(bench, acme, 50)
    with scope(acme):
        hold = bench.gate.admit(call(acme))
        assert (hold.max_tokens, hold.reserved, reserved(bench, acme)) == (1_000, 50, 50 * NANO)


def test_a_tenant_learns_from_its_own_calls_alone(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench = make_gate(**WIDE, estimate="adaptive")
    learn(bench, acme, 50)
    with scope(globex):
        assert bench.gate.admit(call(globex)).reserved == 1_000


def test_estimates_teach_nothing(make_gate: Make, acme: Tenant) -> None:
    """Neither cut-off calls nor those whose provider reported nothing."""
    bench = make_gate(**WIDE, estimate="adaptive")
    with scope(acme):
        for _ in range(8):
            bench.gate.settle(bench.gate.admit(call(acme)), Usage(0, 3), status="cancelled")
            bench.gate.settle(bench.gate.admit(call(acme)))
        assert bench.gate.admit(call(acme)).reserved == 1_000


def test_a_stream_stays_ahead_of_its_reservation(make_gate: Make, acme: Tenant, clock: ManualClock) -> None:
    bench = make_gate(**WIDE, estimate="adaptive")
    learn(bench, acme, 50)
    with scope(acme):
        hold = bench.gate.admit(call(acme, stream=True))
        for written in range(0, 1_001, 100):
            clock.advance(5)
            assert bench.gate.heartbeat_due(hold)
            hold.report(Usage(0, written))
            bench.gate.extend(hold)
            assert hold.reserved >= min(written + 64, 1_000)
            assert reserved(bench, acme) == hold.reserved * NANO
        assert (hold.max_tokens, hold.reserved) == (1_000, 1_000)
        bench.gate.settle(hold, Usage(0, 1_000))
    assert reserved(bench, acme) == 0


def test_a_stream_that_the_budget_does_not_pay_for_is_cut(make_gate: Make, acme: Tenant, clock: ManualClock) -> None:
    """Its overspending is what it wrote since it was last asked."""
    bench = make_gate(**WIDE, estimate="adaptive", budget={"usd": "0.004"})  # 2,000 output tokens
    learn(bench, acme, 50)
    with scope(acme):
        others = [bench.gate.admit(call(acme, stream=True)) for _ in range(26)]
        assert reserved(bench, acme) + spent(bench, acme) == (26 + 8) * 50 * NANO
        hold, written = others[0], 0
        with pytest.raises(BudgetBusy):
            while True:
                clock.advance(5)
                written += 40
                hold.report(Usage(0, written))
                bench.gate.extend(hold)
        assert written <= hold.reserved + 40
        bench.gate.settle(hold, hold.usage)
        for other in others[1:]:
            bench.gate.settle(other, Usage(0, 50))
    assert spent(bench, acme) <= 4_000_000 + 40 * NANO


def test_the_cap_is_what_the_budget_pays_for(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(**WIDE, estimate="adaptive", budget={"usd": "0.001"})  # 500 output tokens
    learn(bench, acme, 50)
    with scope(acme):
        hold = bench.gate.admit(call(acme))
        assert (hold.reserved, hold.max_tokens) == (50, 100)


def test_unstreamed_calls_may_overspend_by_what_is_stated(make_gate: Make, acme: Tenant) -> None:
    """At most calls in flight x (cap - what was learnt); afterwards the budget is closed."""
    bench = make_gate(**WIDE, estimate="adaptive", budget={"usd": "0.004"})
    learn(bench, acme, 50)
    with scope(acme):
        flying = []
        with pytest.raises(BudgetBusy):
            while True:
                flying.append(bench.gate.admit(call(acme)))
        assert len(flying) == 32
        allowed = sum(hold.max_tokens - hold.reserved for hold in flying) * NANO
        for hold in flying:
            bench.gate.settle(hold, Usage(0, hold.max_tokens))
        assert 4_000_000 < spent(bench, acme) <= 4_000_000 + allowed
        with pytest.raises(BudgetExceeded):
            bench.gate.admit(call(acme))


def test_tokens_beyond_the_reservation_are_owed(make_gate: Make, acme: Tenant, clock: ManualClock) -> None:
    bench = make_gate(**(WIDE | {"tpm": 6_000}), burst=0.2, estimate="adaptive")
    for _ in range(8):
        learn(bench, acme, 50, times=1)
        clock.advance(60)
    with scope(acme):
        hold = bench.gate.admit(call(acme, stream=True))
        clock.advance(5)
        hold.report(Usage(0, 900))
        bench.gate.extend(hold)  # no limit of tokens cuts a stream that has written them already
        bench.gate.settle(hold, Usage(0, 1_700))
        with pytest.raises(RateLimited) as refused:
            bench.gate.admit(call(acme))
    assert refused.value.rule == "tpm"
    assert refused.value.retry_after == pytest.approx((1_650 - 1_200 + 1_000) / 100, abs=0.01)
