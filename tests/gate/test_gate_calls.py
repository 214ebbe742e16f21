"""Every way a call can end: settled once, given back, joined, cut off; for each of two tenants on one store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tenant_middleware.admission.call import Call, Kind
from tenant_middleware.admission.gate import ModelGate
from tenant_middleware.admission.store import Limits
from tenant_middleware.context import bind, open_call, pin, scope
from tenant_middleware.errors import (
    BudgetExceeded,
    InvalidInput,
    MissingTenant,
    ModelForbidden,
    RateLimited,
    TenantMismatch,
    UnpricedModel,
)
from tenant_middleware.metering.ledger import split
from tenant_middleware.metering.usage import Media, Usage
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock

Make = Callable[..., Any]
MEDIA = {
    "chat/speaks": {
        "input_cost_per_token": 1e-06,
        "input_cost_per_token_priority": 2e-06,
        "input_cost_per_audio_token": 9e-06,
        "output_cost_per_token": 4e-06,
        "output_cost_per_audio_token": 2e-05,
    },
    "chat/draws": {"input_cost_per_token": 1e-06, "output_cost_per_image_token": 4e-05},
    "chat/ranks": {"input_cost_per_token": 0.0, "input_cost_per_query": 0.002, "mode": "rerank"},
}


def held(bench: Any, tenant: Tenant) -> tuple[int, int]:
    """Calls in flight and reserved money of a tenant."""
    balance = bench.store.balance(tenant, Limits.of(bench.gate.policy.for_tenant(tenant)))
    return balance.in_flight, balance.reserved_nano


def test_a_call_is_booked_once_for_its_own_tenant(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench = make_gate()
    for tenant in (acme, globex):
        with scope(tenant), bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)) as hold:
            assert held(bench, tenant)[0] == 1
            hold.report(Usage(7, 5))
        bench.gate.settle(hold, Usage(900, 900))
    assert [(row.tenant_id, row.prompt_tokens, row.completion_tokens, row.cost_nano) for row in bench.rows] == [
        ("acme", 7, 5, 7 * 1000 + 5 * 2000),
        ("globex", 7, 5, 7 * 1000 + 5 * 2000),
    ]
    assert held(bench, acme) == held(bench, globex) == (0, 0)


async def test_the_async_twin_books_the_same(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme):
        async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)) as hold:
            hold.report(Usage(7, 5))
    assert [row.cost_nano for row in bench.rows] == [17_000]
    assert held(bench, acme) == (0, 0)


def test_without_a_tenant_there_is_no_call(make_gate: Make) -> None:
    bench = make_gate()
    with pytest.raises(MissingTenant):
        bench.gate.new_call("chat/one")
    assert not bench.rows


def test_a_call_made_for_one_tenant_is_refused_inside_anothers_scope(
    make_gate: Make, acme: Tenant, globex: Tenant
) -> None:
    bench = make_gate()
    with scope(acme):
        call = bench.gate.new_call("chat/one")
    with scope(globex), pytest.raises(TenantMismatch), bench.gate.call(call):
        pass
    assert held(bench, acme) == (0, 0)


def test_unknown_and_foreign_models_get_the_same_refusal(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench = make_gate()
    with scope(globex):
        answers = []
        for model in ("ft:acme:legal", "ft:nobody:legal"):
            with pytest.raises(ModelForbidden) as caught:
                bench.gate.admit(bench.gate.new_call(model))
            answers.append((str(caught.value), caught.value.rule, caught.value.http_status))
    assert answers[0] == answers[1] and "acme" not in answers[0][0]
    with scope(acme), bench.gate.call(bench.gate.new_call("ft:acme:legal")):
        pass
    assert [row.cost_usd for row in bench.rows] == [Decimal("0.01")]


def test_a_model_without_a_price_is_refused_before_anything_is_held(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), pytest.raises(UnpricedModel):
        bench.gate.admit(bench.gate.new_call("chat/unpriced"))
    assert held(bench, acme) == (0, 0)


def test_an_error_of_the_provider_gives_the_reservation_back(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with (
        scope(acme),
        pytest.raises(ConnectionError),
        bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)),
    ):
        raise ConnectionError
    assert held(bench, acme) == (0, 0) and not bench.rows


def test_an_error_after_usage_was_reported_is_paid(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), pytest.raises(ValueError), bench.gate.call(bench.gate.new_call("chat/one")) as hold:
        hold.report(Usage(3, 4))
        raise ValueError
    assert [(row.status, row.cost_nano) for row in bench.rows] == [("error", 11_000)]


async def test_a_cancelled_call_is_charged_its_prompt(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    started = asyncio.Event()

    async def work() -> None:
        async with bench.gate.acall(bench.gate.new_call("chat/one", prompt_tokens=10)):
            started.set()
            await asyncio.Event().wait()

    with scope(acme):
        task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(row.status, row.prompt_tokens, row.source) for row in bench.rows] == [("cancelled", 10, "estimated")]
    assert held(bench, acme) == (0, 0)


def test_silence_of_the_provider_is_charged_by_estimate(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10, max_tokens=20)):
        pass
    assert [(row.prompt_tokens, row.completion_tokens, row.source) for row in bench.rows] == [(10, 20, "estimated")]


@pytest.mark.parametrize(
    ("asked", "n", "cap"), [(None, 1, 100), (30, 1, 30), (100_000, 1, 100), (30, 3, 90), (None, 50, 5_000)]
)
def test_the_output_cap_is_the_tiers_times_the_answers(
    make_gate: Make, acme: Tenant, asked: int | None, n: int, cap: int
) -> None:
    bench = make_gate()
    with scope(acme):
        hold = bench.gate.admit(bench.gate.new_call("chat/one", max_tokens=asked, n=n))
    assert hold.max_tokens == cap


def test_the_cap_shrinks_to_what_the_budget_still_pays_for(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(budget={"usd": "0.00005", "period": "month"})  # 25 output tokens
    with scope(acme):
        hold = bench.gate.admit(bench.gate.new_call("chat/one"))
        assert hold.max_tokens == 25
        bench.gate.settle(hold, Usage(0, 10))
        with pytest.raises(BudgetExceeded) as caught:
            bench.gate.admit(bench.gate.new_call("chat/one"))
    error = caught.value
    assert error.limit == Decimal("0.00005") and error.used == Decimal("0.00002") and error.resets_at is not None


def test_a_nested_call_joins_the_open_one(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)) as outer:
        for usage in (Usage(10, 1), Usage(10, 2)):
            with bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)) as inner:
                inner.report(usage)
        outer.report(Usage(500, 500))  # the outer's own view of the same tokens
    [row] = bench.rows
    assert (row.prompt_tokens, row.completion_tokens, row.attempts) == (20, 3, 2)
    assert row.cost_nano == 20 * 1000 + 3 * 2000
    assert held(bench, acme) == (0, 0)


@pytest.mark.parametrize("reported", [Usage(10, 3), None])
def test_of_three_gates_on_one_call_the_innermost_counts(make_gate: Make, acme: Tenant, reported: Usage | None) -> None:
    """An agent's middleware, its model wrapper and LiteLLM: the middle one's view or estimate is the same tokens."""
    bench = make_gate()

    def call() -> Any:
        return bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10))

    with scope(acme), call():
        for usage in (Usage(10, 1), Usage(10, 2)):
            with call() as middle:
                with call() as inner:
                    inner.report(usage)
                if reported is not None:
                    middle.report(reported)
        with call() as alone:  # a middle one that called its provider itself
            alone.report(Usage(5, 5))
    [row] = bench.rows
    assert (row.prompt_tokens, row.completion_tokens, row.attempts) == (25, 8, 3)
    assert row.source == "provider"
    assert held(bench, acme) == (0, 0)


def test_a_dearer_fallback_inside_is_priced_by_its_own_model_and_stays_in_the_budget(
    make_gate: Make, acme: Tenant
) -> None:
    bench = make_gate(budget={"usd": "0.001", "period": "month"})
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10, max_tokens=20)) as outer:
        with bench.gate.call(bench.gate.new_call("chat/dear", prompt_tokens=10, max_tokens=20)) as inner:
            inner.report(Usage(10, 20))
            assert outer.nano == 10 * 10_000 + 20 * 20_000
        with pytest.raises(BudgetExceeded), bench.gate.call(bench.gate.new_call("chat/dear", prompt_tokens=100)):
            pass
    assert [(row.model, row.cost_nano) for row in bench.rows] == [("chat/dear", 500_000)]


def test_an_embedding_inside_a_chat_call_is_a_call_of_its_own(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one")) as outer:
        with bench.gate.call(bench.gate.new_call("embed", kind=Kind.EMBEDDING, prompt_tokens=5)) as inner:
            inner.report(Usage(5))
        outer.report(Usage(1, 1))
    assert [row.kind for row in bench.rows] == ["embedding", "chat"]


def test_a_call_after_the_outer_one_ended_does_not_join_it(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()

    def later() -> None:
        with bench.gate.call(bench.gate.new_call("chat/one")) as hold:
            hold.report(Usage(1, 1))

    with scope(acme):
        with bench.gate.call(bench.gate.new_call("chat/one")) as hold:
            hold.report(Usage(1, 1))
            job = bind(later)
        job()
    assert len(bench.rows) == 2


def test_the_reader_of_a_half_read_stream_does_not_join_it(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()

    def stream() -> Any:
        with bench.gate.call(bench.gate.new_call("chat/one")) as hold:
            for count in range(1, 4):
                hold.report(Usage(1, count))
                yield count

    with scope(acme):
        steps = pin(stream())
        next(steps)
        assert open_call() is None
        with bench.gate.call(bench.gate.new_call("chat/one")) as hold:
            hold.report(Usage(5, 5))
        steps.close()
    assert [(row.status, row.completion_tokens) for row in bench.rows] == [("ok", 5), ("cancelled", 1)]
    assert held(bench, acme) == (0, 0)


def test_a_refused_call_holds_nothing_and_says_when_to_come_back(make_gate: Make, acme: Tenant, globex: Tenant) -> None:
    bench = make_gate(max_concurrency=1)
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one")), pytest.raises(RateLimited) as caught:
        run_apart(bench.gate)
    assert caught.value.rule == "concurrency" and caught.value.retry_after is not None
    with scope(globex), bench.gate.call(bench.gate.new_call("chat/one")):
        pass


def run_apart(gate: ModelGate) -> None:
    """A call of the same tenant in a context where none is open."""

    def call() -> None:
        with gate.call(gate.new_call("chat/one")):
            pass

    bind(call)()


async def test_a_denied_call_waits_within_the_tiers_queue_timeout(
    make_gate: Make, acme: Tenant, clock: ManualClock
) -> None:
    bench = make_gate(rpm=60, burst=0.01, queue_timeout=2.0)
    with scope(acme):
        await bench.gate.asettle(await bench.gate.aadmit(bench.gate.new_call("chat/one")), Usage(1, 1))
        waiting = asyncio.create_task(bench.gate.aadmit(bench.gate.new_call("chat/one")))
        for _ in range(12):
            for _ in range(5):
                await asyncio.sleep(0)
            clock.advance(0.1)
        hold = await asyncio.wait_for(waiting, 5)
    assert 1.0 <= hold.queue_wait <= 1.2
    await bench.gate.arelease(hold)
    assert held(bench, acme) == (0, 0)


async def test_a_call_cancelled_while_it_waits_holds_nothing(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(rpm=60, burst=0.01, queue_timeout=2.0)
    with scope(acme):
        await bench.gate.asettle(await bench.gate.aadmit(bench.gate.new_call("chat/one")), Usage(1, 1))
        waiting = asyncio.create_task(bench.gate.aadmit(bench.gate.new_call("chat/one")))
        for _ in range(10):
            await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert held(bench, acme) == (0, 0) and len(bench.rows) == 1


def test_a_cache_hit_is_booked_at_no_cost_and_uses_no_limit(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(rpm=1, burst=1.0)
    with scope(acme):
        for _ in range(5):
            bench.gate.hit(bench.gate.new_call("chat/one"))
        with bench.gate.call(bench.gate.new_call("chat/one")) as hold:
            hold.report(Usage(1, 1))
    assert [row.status for row in bench.rows] == ["cache_hit"] * 5 + ["ok"]
    assert sum(row.cost_nano for row in bench.rows) == 3_000


@pytest.mark.parametrize("value", [-1, 10**12, 1.5, True, None])
def test_negative_and_absurd_token_counts_are_refused(acme: Tenant, value: Any) -> None:
    with pytest.raises(InvalidInput):
        Call(acme, "chat/one", prompt_tokens=value)
    with pytest.raises(InvalidInput):
        Usage(1, value)


def test_a_call_that_went_on_with_another_model_tells_each_ones_share(make_gate: Make, acme: Tenant) -> None:
    """One row for the call, and its money with the model that was paid it."""
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/dear", prompt_tokens=10)) as hold:
        for model, used in (("chat/one", Usage(7, 5)), ("chat/dear", Usage(8, 6)), ("chat/one", Usage(1, 1))):
            with bench.gate.call(bench.gate.new_call(model, prompt_tokens=10)) as attempt:
                attempt.report(used)
    assert hold.usage is None
    (row,) = bench.rows
    assert (row.model, row.prompt_tokens, row.cost_nano, row.attempts) == ("chat/one", 16, 20_000 + 200_000, 3)
    shares = {one.model: (one.prompt_tokens, one.completion_tokens, one.cost_nano, one.status) for one in split([row])}
    assert shares == {"chat/dear": (8, 6, 200_000, "attempt"), "chat/one": (8, 6, 20_000, "ok")}


def test_a_call_of_one_model_needs_no_shares(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)):
        for _ in range(2):
            with bench.gate.call(bench.gate.new_call("chat/one", prompt_tokens=10)) as attempt:
                attempt.report(Usage(7, 5))
    (row,) = bench.rows
    assert row.by_model == "" and list(split([row])) == [row]


def test_a_reservation_covers_an_hours_writes_and_the_row_tells_them(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate()
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/cached", prompt_tokens=10)) as hold:
        assert held(bench, acme)[1] == 10 * 3_000 + 100 * 2_000
        hold.report(Usage(10, 0, cache_write_tokens=10, cache_write_1h_tokens=8))
    (row,) = bench.rows
    assert (row.cost_nano, row.cache_write_tokens, row.cache_write_1h_tokens) == (2 * 2_000 + 8 * 3_000, 10, 8)


def test_what_is_no_text_is_reserved_and_told(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(price_map=MEDIA)
    with scope(acme):
        with bench.gate.call(bench.gate.new_call("chat/speaks", prompt_tokens=10, media=True)) as hold:
            assert held(bench, acme)[1] == 10 * 9_000 + 100 * 20_000
            hold.report(Usage(10, 5, prompt_media=Media(audio=4), completion_media=Media(audio=5)))
        with bench.gate.call(bench.gate.new_call("chat/speaks", prompt_tokens=10)):
            assert held(bench, acme)[1] == 10 * 1_000 + 100 * 20_000
    assert bench.rows[0].media_tokens == "prompt_audio=4,completion_audio=5"
    assert bench.rows[0].cost_nano == 6 * 1_000 + 4 * 9_000 + 5 * 20_000


def test_pictures_paid_by_the_token_are_never_free(make_gate: Make, acme: Tenant) -> None:
    """Held in full or not made; charged by estimate where the provider says nothing."""
    bench = make_gate(price_map=MEDIA)
    with scope(acme):
        call = bench.gate.new_call("chat/draws", kind=Kind.IMAGE, prompt_tokens=10, n=2)
        with bench.gate.call(call) as hold:
            assert held(bench, acme)[1] == 10 * 1_000 + 2 * 8_192 * 40_000
            hold.report(Usage(0, units=2))
        with pytest.raises(BudgetExceeded):
            bench.gate.admit(bench.gate.new_call("chat/draws", kind=Kind.IMAGE, prompt_tokens=10, n=2))
        call = bench.gate.new_call("chat/draws", kind=Kind.IMAGE, prompt_tokens=10)
        with bench.gate.call(call) as hold:
            hold.report(Usage(10, 400, completion_media=Media(image=400), units=1))
    assert [(row.source, row.cost_nano) for row in bench.rows] == [
        ("estimated", 10 * 1_000 + 2 * 8_192 * 40_000),
        ("provider", 10 * 1_000 + 400 * 40_000),
    ]


def test_searches_cost_what_the_provider_charges_for(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(price_map=MEDIA)
    with scope(acme), bench.gate.call(bench.gate.new_call("chat/ranks", kind=Kind.RERANK, n=2)) as hold:
        assert held(bench, acme)[1] == 2 * 2_000_000
        hold.report(Usage(0, units=3))
    assert [(row.source, row.cost_nano) for row in bench.rows] == [("provider", 3 * 2_000_000)]


def test_a_dearer_way_of_serving_is_reserved_and_the_real_one_booked(make_gate: Make, acme: Tenant) -> None:
    bench = make_gate(price_map=MEDIA)
    with scope(acme):
        call = bench.gate.new_call("chat/speaks", prompt_tokens=10, service_tier="priority")
        with bench.gate.call(call) as hold:
            assert held(bench, acme)[1] == 10 * 2_000 + 100 * 20_000
            hold.report(Usage(10, 0, service_tier="default"))
        with bench.gate.call(bench.gate.new_call("chat/speaks", prompt_tokens=10)) as hold:
            hold.report(Usage(10, 0, service_tier="priority"))
    assert [(row.price_source, row.cost_nano) for row in bench.rows] == [
        ("litellm", 10_000),
        ("litellm priority", 20_000),
    ]
