"""The gate's queue: a call waits for a slot within its tier's queue_timeout, and only when waiting can help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tenant_middleware.admission.queueing.pools import PoolRule, Pools
from tenant_middleware.admission.queueing.terms import PoolTerms
from tenant_middleware.context import scope
from tenant_middleware.errors import BudgetExceeded, ModelForbidden, RateLimited, Refusal, SettingsError
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

Make = Callable[..., Any]


def one_slot(models: str = "*", slots: int = 1) -> Pools:
    return Pools([PoolRule("p", (models,), PoolTerms(slots, prior_output=10))])


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def call(bench: Any, tenant: Tenant, model: str = "chat/one", **kwargs: Any) -> Any:
    with scope(tenant):
        return await bench.gate.aadmit(bench.gate.new_call(model, prompt_tokens=10, **kwargs))


async def test_a_call_waits_for_a_slot_and_the_wait_is_in_its_row(
    make_gate: Make, clock: ManualClock, acme: Tenant, globex: Tenant
) -> None:
    bench = make_gate(one_slot(), queue_timeout=30.0)
    hold = await call(bench, acme)
    waiting = asyncio.create_task(call(bench, globex))
    await settled()
    clock.advance(3.0)
    await bench.gate.asettle(hold, Usage(10, 5))
    await bench.gate.asettle(await waiting, Usage(10, 5))
    assert [(row.tenant_id, row.queue_wait) for row in bench.rows] == [("acme", 0.0), ("globex", 3.0)]
    (pool,) = bench.gate.queue.state()
    assert (pool.running, pool.waiting) == (0, 0)


async def test_a_call_inside_an_open_one_waits_for_no_slot_and_is_none_more_at_once(
    make_gate: Make, acme: Tenant
) -> None:
    """Two calls hold both slots and all of `max_concurrency`, and each needs an embedding before it can end."""
    bench = make_gate(one_slot(slots=2), queue_timeout=30.0, max_concurrency=2)
    both = asyncio.Barrier(2)

    async def ask() -> None:
        with scope(acme):
            async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)):
                await both.wait()
                async with bench.gate.acall(bench.gate.new_call("embed", kind="embedding", prompt_tokens=10)):
                    assert bench.gate.queue.state()[0].running == 2
                async with bench.gate.acall(bench.gate.new_call("embed", kind="embedding", prompt_tokens=10)):
                    await both.wait()

    await asyncio.gather(ask(), ask())
    assert sorted(row.kind for row in bench.rows) == ["chat"] * 2 + ["embedding"] * 4
    assert bench.gate.queue.state()[0].running == 0


async def test_an_open_call_lends_its_place_to_one_call_at_a_time(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(one_slot(), max_concurrency=1)
    embedding = {"kind": "embedding", "prompt_tokens": 10}
    with scope(acme):
        async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)):
            first = await bench.gate.aadmit(bench.gate.new_call("embed", **embedding))
            with pytest.raises(RateLimited) as caught:
                await bench.gate.aadmit(bench.gate.new_call("embed", **embedding))
            assert caught.value.rule == "queue"
            await bench.gate.arelease(first)
            await bench.gate.asettle(await bench.gate.aadmit(bench.gate.new_call("embed", **embedding)))
        with pytest.raises(RateLimited):
            async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)):
                await bench.gate.aadmit(bench.gate.new_call("embed", kind="embedding", prompt_tokens=10**6))
        async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)):
            async with bench.gate.acall(bench.gate.new_call("embed", **embedding)):
                pass


async def test_without_a_queue_timeout_a_full_pool_refuses_at_once(
    make_gate: Make, acme: Tenant, globex: Tenant
) -> None:
    bench = make_gate(one_slot())
    await call(bench, acme)
    with pytest.raises(RateLimited) as caught:
        await call(bench, globex)
    assert (caught.value.rule, caught.value.tenant_id) == ("queue", "globex") and caught.value.retry_after


@pytest.mark.parametrize(
    ("tier", "refusal", "model", "prompt"),
    [
        ({"budget": {"usd": "0.00001", "period": "day"}}, BudgetExceeded, "chat/one", 1000),
        ({"tpm": 500}, RateLimited, "chat/one", 1000),
        ({}, ModelForbidden, "ft:acme:legal", 10),
    ],
    ids=["budget", "never admissible", "forbidden"],
)
async def test_what_no_wait_mends_is_refused_before_the_queue(
    make_gate: Make, acme: Tenant, globex: Tenant, tier: dict[str, Any], refusal: type[Refusal], model: str, prompt: int
) -> None:
    """The slot is taken and stays taken: whoever joined the line would wait for ever."""
    bench = make_gate(one_slot(), queue_timeout=300.0, **tier)
    slot = bench.gate.queue.enter(_ticket(acme))
    with scope(globex), pytest.raises(refusal) as caught:
        async with asyncio.timeout(1):
            await bench.gate.aadmit(bench.gate.new_call(model, prompt_tokens=prompt))
    assert type(caught.value) is refusal and caught.value.rule != "queue"
    assert bench.gate.queue.state()[0].waiting == 0
    bench.gate.queue.leave(slot, 0, 0)
    with scope(globex), pytest.raises(refusal) as at_the_store:
        await bench.gate.aadmit(bench.gate.new_call(model, prompt_tokens=prompt))
    assert str(at_the_store.value) == str(caught.value)


async def test_a_budget_that_ran_out_refuses_a_flood_before_the_queue(
    make_gate: Make, acme: Tenant, globex: Tenant
) -> None:
    bench = make_gate(one_slot(), queue_timeout=300.0, budget={"usd": "0.00025", "period": "day"})
    await bench.gate.asettle(await call(bench, globex), Usage(50, 100))
    assert bench.rows[-1].cost_nano == 250_000
    await call(bench, acme)
    async with asyncio.timeout(1):
        refused = await asyncio.gather(*(call(bench, globex) for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in refused} == {BudgetExceeded}


async def test_a_denied_tenant_gives_its_slot_back_and_stands_aside(
    make_gate: Make, clock: ManualClock, acme: Tenant, globex: Tenant
) -> None:
    bench = make_gate(one_slot(), rpm=60, burst=0.01, queue_timeout=30.0)
    await bench.gate.asettle(await call(bench, acme), Usage(10, 5))
    parked = [asyncio.create_task(call(bench, acme)) for _ in range(3)]
    await settled()
    assert not any(task.done() for task in parked)
    hold = await asyncio.wait_for(call(bench, globex), 1)
    assert hold.queue_wait == 0.0
    await bench.gate.asettle(hold, Usage(10, 5))
    for _ in range(3):
        clock.advance(1.01)
        await settled()
        (ready,) = [task for task in parked if task.done()]
        parked.remove(ready)
        await bench.gate.asettle(ready.result(), Usage(10, 5))
    assert [row.queue_wait > 0 for row in bench.rows if row.tenant_id == "acme"] == [False, True, True, True]


async def test_a_stream_tells_the_queue_what_it_has_written(make_gate: Make, clock: ManualClock, acme: Tenant) -> None:
    bench = make_gate(one_slot())
    hold = await call(bench, acme, stream=True)
    assert hold.slot.job.charged == 10 + 2 * 10
    assert not bench.gate.heartbeat_due(hold)
    clock.advance(2.1)
    assert bench.gate.heartbeat_due(hold)
    hold.report(Usage(10, 50))
    await bench.gate.aextend(hold)
    assert hold.slot.job.charged == 10 + 2 * 50 and not bench.gate.heartbeat_due(hold)


async def test_a_cancelled_wait_holds_nothing(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench = make_gate(one_slot(), queue_timeout=30.0)
    hold = await call(bench, acme)
    waiting = [asyncio.create_task(call(bench, globex)) for _ in range(5)]
    await settled()
    assert bench.gate.queue.state()[0].waiting == 5
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await bench.gate.arelease(hold)
    (pool,) = bench.gate.queue.state()
    assert (pool.running, pool.waiting) == (0, 0) and not bench.rows


async def test_a_flood_waits_and_its_neighbour_comes_next(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench, order = make_gate(one_slot(), queue_timeout=300.0), list[str]()

    async def whole(tenant: Tenant) -> None:
        hold = await call(bench, tenant)
        order.append(tenant.id)
        await bench.gate.asettle(hold, Usage(10, 5))

    first = await call(bench, acme)
    flood = [asyncio.create_task(whole(acme)) for _ in range(30)]
    await settled()
    light = asyncio.create_task(whole(globex))
    await settled()
    await bench.gate.asettle(first, Usage(10, 5))
    await asyncio.gather(*flood, light)
    assert order.index("globex") <= 1 and len(order) == 31


def test_models_without_a_pool_keep_no_books(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(one_slot("other"))
    with scope(acme), ExitStack() as calls:
        for _ in range(4):
            calls.enter_context(bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=1)))
        assert all(pool.running == 0 for pool in bench.gate.queue.state())


POLICY: dict[str, Any] = {
    "tiers": {
        "enterprise": {
            "rpm": "unlimited",
            "tpm": "unlimited",
            "max_concurrency": "unlimited",
            "budget": "unlimited",
            "models": ["m"],
            "max_output_tokens": 100,
            "queue_timeout": 5,
        }
    },
    "tenants": {"acme": {"tier": "enterprise"}, "globex": {"tier": "enterprise"}},
    "prices": {"m": {"free": True}},
    "queue": {"pools": {"main": {"models": ["m"], "slots": 2, "policy": "wrr", "max_wait": "10s"}}},
}


def test_the_policy_file_makes_the_pools(acme: Tenant, globex: Tenant) -> None:
    with Tenancy.from_mapping(POLICY) as tenancy, scope(acme):
        with tenancy.gate.call(tenancy.gate.new_call("m", prompt_tokens=5)):
            (pool,) = tenancy.gate.queue.state()
            assert (pool.name, pool.slots, pool.running) == ("main", 2, 1)


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ({"slots": 2, "reserve_slots": 2}, "fewer than slots"),
        ({"slots": 0}, "greater than 0"),
        ({"slots": 2, "polcy": "wrr"}, "polcy"),
        ({"slots": 2, "models": []}, "models"),
    ],
)
def test_a_wrong_pool_is_an_error_at_start_up(pool: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Tenancy.from_mapping(POLICY | {"queue": {"pools": {"main": {"models": ["m"]} | pool}}})


def test_a_pool_may_not_be_called_open() -> None:
    with pytest.raises(SettingsError, match="open"):
        Tenancy.from_mapping(POLICY | {"queue": {"pools": {"open": {"models": ["m"], "slots": 1}}}})


def _ticket(tenant: Tenant) -> Any:
    from tenant_middleware.testing.queue import ticket

    return ticket(tenant)
