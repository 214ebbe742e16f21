"""The contract of an AdmissionStore, for any backend: subclass AdmissionContract and give it three fixtures.

    class TestMine(AdmissionContract):
        @pytest.fixture
        def clock(self): return ManualClock(START)
        @pytest.fixture
        def store(self, clock): return MyAdmission(clock=clock)
        @pytest.fixture
        def booked(self, store): return lambda: [...]     # rows that settled calls have handed over so far

The clock stands still until a test moves it; nothing here sleeps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tenant_middleware.admission.store import AdmissionStore, Ask, Denied, Granted, Limits, Settlement
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.clock import ManualClock

# Thursday 2025-05-15 12:00:00 UTC: no calendar edge is near.
START = 1_747_310_400.0
MINUTE = 60.0
TTL = 120.0
FREE = Limits(rpm=None, tpm=None, burst=0.1, max_concurrency=None, budget_nano=None, period="month")
ACME, GLOBEX = Tenant("acme", "free"), Tenant("globex", "free")
PAIRS = [("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")]
Booked = Callable[[], Sequence[LedgerRow]]

_ids = itertools.count()


def ask(tenant: Tenant = ACME, limits: Limits = FREE, **changes: Any) -> Ask:
    """An ask for 10 prompt tokens and 10 output tokens at 10 nano-dollars each, with an id of its own."""
    call_id = f"{next(_ids):032x}"
    plain = Ask(tenant, call_id, limits, 10, 10, 10, 100, 10, TTL, "nonce-" + call_id)
    return plain._replace(**changes)


def row(tenant: Tenant, call_id: str, nano: int = 0, at: float = START) -> LedgerRow:
    return LedgerRow(tenant.id, call_id, at, tenant.tier, None, "m", "chat", cost_nano=nano)


def settlement(asked: Ask, tokens: int = 20, nano: int = 200, at: float = START) -> Settlement:
    """The truth about an ask, by default what it reserved."""
    tenant, call_id = asked.tenant, asked.call_id
    return Settlement(tenant, call_id, asked.limits, tokens, nano, row(tenant, call_id, nano, at))


def granted(answer: Granted | Denied) -> Granted:
    assert isinstance(answer, Granted), answer
    return answer


def denied(answer: Granted | Denied, rule: str) -> Denied:
    assert isinstance(answer, Denied), answer
    assert answer.rule == rule, answer
    return answer


class AdmissionContract:
    """What every AdmissionStore promises."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(START)

    @pytest.fixture
    def store(self, clock: ManualClock) -> AdmissionStore:
        """An empty store on `clock`; override this."""
        raise LookupError("AdmissionContract: override the fixture store")

    @pytest.fixture
    def booked(self, store: AdmissionStore) -> Booked:
        """Reads the rows that settled calls handed over; override this."""
        raise LookupError("AdmissionContract: override the fixture booked")

    # Buckets.

    def test_requests_come_in_a_burst_and_then_at_their_rate(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, rpm=60)  # a burst of 6, then one a second
        for _ in range(6):
            granted(store.reserve(ask(limits=limits)))
        refusal = denied(store.reserve(ask(limits=limits)), "rpm")
        assert (refusal.limit, refusal.used, refusal.never) == (60, 60, False)
        assert refusal.retry_after == pytest.approx(1.0, abs=0.01)
        clock.advance(refusal.retry_after or 0)
        granted(store.reserve(ask(limits=limits)))
        denied(store.reserve(ask(limits=limits)), "rpm")

    def test_at_least_one_request_may_come(self, store: AdmissionStore) -> None:
        limits = replace(FREE, rpm=2)
        granted(store.reserve(ask(limits=limits)))
        assert denied(store.reserve(ask(limits=limits)), "rpm").retry_after == pytest.approx(30, abs=0.01)

    def test_a_call_above_the_bucket_waits_until_it_is_full_and_leaves_a_debt(
        self, store: AdmissionStore, clock: ManualClock
    ) -> None:
        limits = replace(FREE, tpm=6_000)  # a bucket of 600, 100 a second
        granted(store.reserve(ask(limits=limits, prompt_tokens=3_000, max_output=0, min_output=0)))
        small = denied(store.reserve(ask(limits=limits, prompt_tokens=100, max_output=0, min_output=0)), "tpm")
        assert small.retry_after == pytest.approx(25, abs=0.01)  # 2,400 of debt and 100 to spend
        assert small.used == 8_400
        big = denied(store.reserve(ask(limits=limits, prompt_tokens=6_000, max_output=0, min_output=0)), "tpm")
        assert big.retry_after == pytest.approx(30, abs=0.01)
        clock.advance(big.retry_after or 0)
        granted(store.reserve(ask(limits=limits, prompt_tokens=6_000, max_output=0, min_output=0)))

    def test_when_requests_and_tokens_are_short_the_longer_wait_is_told(
        self, store: AdmissionStore, clock: ManualClock
    ) -> None:
        for rpm, tpm, rule in ((60, 600, "tpm"), (1, 60_000, "rpm")):
            limits = replace(FREE, rpm=rpm, tpm=tpm, burst=0.01)
            asked = ask(GLOBEX, limits, prompt_tokens=500, max_output=0, min_output=0)
            clock.advance(MINUTE)
            granted(store.reserve(asked))
            refusal = denied(store.reserve(asked._replace(call_id="b" * 32)), rule)
            clock.advance(refusal.retry_after or 0)
            granted(store.reserve(asked._replace(call_id="c" * 31 + rule[0])))

    def test_a_call_above_the_limit_is_never_admissible(self, store: AdmissionStore) -> None:
        limits = replace(FREE, tpm=6_000)
        refusal = denied(store.reserve(ask(limits=limits, prompt_tokens=5_991, max_output=10)), "tpm")
        assert refusal.never
        assert refusal.retry_after is None

    def test_actual_use_above_the_reserve_is_owed(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, tpm=6_000)
        first = ask(limits=limits)
        granted(store.reserve(first))
        assert store.settle(settlement(first, tokens=30_000))
        refusal = denied(store.reserve(ask(limits=limits)), "tpm")
        assert refusal.retry_after == pytest.approx((30_000 - 600 + 20) / 100, abs=0.01)

    def test_unused_tokens_come_back(self, store: AdmissionStore) -> None:
        limits = replace(FREE, tpm=6_000)
        first = ask(limits=limits, prompt_tokens=590)
        granted(store.reserve(first))
        denied(store.reserve(ask(limits=limits)), "tpm")
        store.settle(settlement(first, tokens=100))
        granted(store.reserve(ask(limits=limits, prompt_tokens=490)))

    def test_a_clock_that_goes_back_refills_nothing(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, rpm=10)
        granted(store.reserve(ask(limits=limits)))
        clock.set(START - 3_600)
        denied(store.reserve(ask(limits=limits)), "rpm")
        clock.advance(6.1)
        granted(store.reserve(ask(limits=limits)))

    # Concurrency and expiry.

    def test_calls_in_flight_are_bounded(self, store: AdmissionStore) -> None:
        limits = replace(FREE, max_concurrency=2)
        first, second = ask(limits=limits), ask(limits=limits)
        granted(store.reserve(first)), granted(store.reserve(second))
        refusal = denied(store.reserve(ask(limits=limits)), "concurrency")
        assert (refusal.limit, refusal.used) == (2, 2)
        assert refusal.retry_after
        store.settle(settlement(first))
        granted(store.reserve(ask(limits=limits)))
        assert store.release(ACME, second.call_id, limits)
        granted(store.reserve(ask(limits=limits)))

    def test_a_silent_worker_loses_its_slot_and_stays_charged(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, max_concurrency=1, budget_nano=399)
        granted(store.reserve(ask(limits=limits)))
        clock.advance(TTL + 1)
        refusal = denied(store.reserve(ask(limits=limits)), "budget")
        assert refusal.used == 200
        balance = store.balance(ACME, limits)
        assert (balance.in_flight, balance.reserved_nano, balance.lost_nano) == (0, 0, 200)

    def test_a_late_settle_puts_the_truth_in_place(
        self, store: AdmissionStore, clock: ManualClock, booked: Booked
    ) -> None:
        limits = replace(FREE, budget_nano=1_000)
        late = ask(limits=limits)
        granted(store.reserve(late))
        clock.advance(TTL + 1)
        granted(store.reserve(ask(limits=limits)))
        assert store.settle(settlement(late, nano=50))
        balance = store.balance(ACME, limits)
        assert (balance.spent_nano, balance.lost_nano, balance.reserved_nano) == (50, 0, 200)
        assert [r.cost_nano for r in booked()] == [50]

    def test_a_heartbeat_keeps_a_lease(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, max_concurrency=1)
        held = ask(limits=limits)
        granted(store.reserve(held))
        for beat in range(4):
            clock.advance(TTL - 1)
            renewal = held._replace(prompt_tokens=0, max_output=0, min_output=0, fixed_nano=0, nonce=f"beat {beat}")
            answer = granted(store.extend(renewal))
            assert (answer.output, answer.tokens, answer.nano) == (0, 0, 0)
            assert answer.expires_at == pytest.approx(clock.time() + TTL, abs=0.01)
        denied(store.reserve(ask(limits=limits)), "concurrency")

    # Budgets.

    def test_a_budget_grants_the_output_it_still_pays_for(self, store: AdmissionStore) -> None:
        limits = replace(FREE, budget_nano=1_000)
        wide = ask(limits=limits, max_output=500, min_output=16, fixed_nano=100, output_nano=2)
        answer = granted(store.reserve(wide))
        assert (answer.output, answer.nano, answer.tokens) == (450, 1_000, 460)
        refusal = denied(store.reserve(ask(limits=limits)), "budget_busy")
        assert (refusal.limit, refusal.used) == (1_000, 1_000)
        assert refusal.retry_after
        store.settle(settlement(wide, nano=840))
        denied(store.reserve(ask(limits=limits)), "budget")
        least = granted(store.reserve(ask(limits=limits, max_output=99, min_output=6, fixed_nano=100)))
        assert least.output == 6

    def test_a_spent_budget_refuses_until_it_resets(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, budget_nano=200, period="day")
        first = ask(limits=limits)
        granted(store.reserve(first))
        store.settle(settlement(first))
        refusal = denied(store.reserve(ask(limits=limits)), "budget")
        assert (refusal.limit, refusal.used, refusal.retry_after) == (200, 200, None)
        assert refusal.resets_at == START + 12 * 3_600
        clock.advance(12 * 3_600)
        granted(store.reserve(ask(limits=limits)))

    def test_a_call_dearer_than_the_whole_budget_is_never_admissible(self, store: AdmissionStore) -> None:
        refusal = denied(store.reserve(ask(limits=replace(FREE, budget_nano=199))), "budget")
        assert refusal.never
        assert refusal.used == 0

    def test_a_call_is_charged_to_the_period_it_began_in(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, budget_nano=1_000, period="hour")
        clock.advance(3_590)
        before = ask(limits=limits)
        granted(store.reserve(before))
        clock.advance(20)
        after = ask(limits=limits)
        granted(store.reserve(after))
        assert store.settle(settlement(before, nano=999))
        balance = store.balance(ACME, limits)
        assert (balance.spent_nano, balance.reserved_nano) == (0, 200)
        assert balance.resets_at == START + 7_200

    def test_a_clock_that_goes_back_opens_no_budget_again(self, store: AdmissionStore, clock: ManualClock) -> None:
        limits = replace(FREE, budget_nano=300, period="hour")
        first = ask(limits=limits)
        granted(store.reserve(first))
        store.settle(settlement(first))
        clock.set(START - 7_200)
        denied(store.reserve(ask(limits=limits)), "budget")

    def test_use_above_the_reserve_is_spent_all_the_same(self, store: AdmissionStore, booked: Booked) -> None:
        limits = replace(FREE, budget_nano=1_000)
        first = ask(limits=limits)
        granted(store.reserve(first))
        store.settle(settlement(first, nano=300_000))
        refusal = denied(store.reserve(ask(limits=limits)), "budget")
        assert (refusal.limit, refusal.used) == (1_000, 300_000)
        assert [r.cost_nano for r in booked()] == [300_000]

    # Growth.

    def test_a_reservation_grows_by_what_limits_and_budget_allow(self, store: AdmissionStore) -> None:
        limits = replace(FREE, tpm=1_000, budget_nano=1_000)
        held = ask(limits=limits)
        granted(store.reserve(held))
        more = held._replace(prompt_tokens=0, fixed_nano=0, max_output=30, min_output=30, nonce="more")
        answer = granted(store.extend(more))
        assert (answer.output, answer.tokens, answer.nano) == (30, 30, 300)
        assert granted(store.extend(more))[:4] == answer[:4]  # a lost reply, sent again
        assert answer.balance.reserved_nano == 500
        denied(store.extend(more._replace(nonce="too dear", max_output=60, min_output=60)), "budget_busy")
        denied(store.extend(more._replace(nonce="too long", max_output=51, min_output=51, output_nano=0)), "tpm")
        assert store.balance(ACME, limits).reserved_nano == 500
        assert granted(store.extend(more._replace(nonce="last", max_output=60, min_output=1))).output == 50

    def test_only_a_held_call_can_grow(self, store: AdmissionStore) -> None:
        denied(store.extend(ask()), "unknown_call")
        held = ask()
        granted(store.reserve(held))
        store.settle(settlement(held))
        denied(store.extend(held._replace(nonce="again")), "replayed")

    # Once.

    def test_a_retry_of_ours_gets_the_same_grant(self, store: AdmissionStore) -> None:
        limits = replace(FREE, rpm=600, budget_nano=1_000)
        sent = ask(limits=limits)
        first, again = granted(store.reserve(sent)), granted(store.reserve(sent))
        assert first[:4] == again[:4]
        assert (again.balance.requests, again.balance.in_flight, again.balance.reserved_nano) == (59, 1, 200)
        denied(store.reserve(sent._replace(nonce="somebody else's")), "replayed")

    def test_a_settled_or_released_id_is_refused(self, store: AdmissionStore) -> None:
        settled, released = ask(), ask()
        granted(store.reserve(settled)), granted(store.reserve(released))
        store.settle(settlement(settled))
        store.release(ACME, released.call_id, FREE)
        denied(store.reserve(settled), "replayed")
        denied(store.reserve(released), "replayed")

    def test_a_denial_changes_nothing(self, store: AdmissionStore) -> None:
        limits = replace(FREE, rpm=600, tpm=10_000, max_concurrency=5, budget_nano=1_000)
        before = store.balance(ACME, limits)
        for bad in (
            ask(limits=limits, prompt_tokens=20_000),
            ask(limits=limits, fixed_nano=2_000),
            ask(limits=limits, fixed_nano=950),
        ):
            assert isinstance(store.reserve(bad), Denied)
        assert store.balance(ACME, limits) == before

    def test_twice_is_once(self, store: AdmissionStore, booked: Booked) -> None:
        limits = replace(FREE, tpm=100_000, budget_nano=10_000)
        held = ask(limits=limits)
        granted(store.reserve(held))
        done = [store.settle(settlement(held, tokens=15, nano=123)) for _ in range(5)]
        assert done == [True, False, False, False, False]
        assert not store.release(ACME, held.call_id, limits)
        balance = store.balance(ACME, limits)
        assert (balance.spent_nano, balance.reserved_nano, balance.tokens) == (123, 0, 9_985)
        assert [(r.tenant_id, r.cost_nano) for r in booked()] == [("acme", 123)]

    def test_a_release_gives_all_but_the_request_back(self, store: AdmissionStore, booked: Booked) -> None:
        limits = replace(FREE, rpm=600, tpm=10_000, max_concurrency=5, budget_nano=1_000)
        held = ask(limits=limits)
        granted(store.reserve(held))
        assert store.release(ACME, held.call_id, limits)
        assert not store.release(ACME, held.call_id, limits)
        assert not store.settle(settlement(held))
        balance = store.balance(ACME, limits)
        assert (balance.requests, balance.tokens, balance.in_flight) == (59, 1_000, 0)
        assert (balance.spent_nano, balance.reserved_nano) == (0, 0)
        assert not booked()

    def test_many_threads_share_one_budget(self, store: AdmissionStore) -> None:
        limits = replace(FREE, budget_nano=2_000)

        def one(_: int) -> bool:
            asked = ask(limits=limits)
            if isinstance(store.reserve(asked), Denied):
                return False
            return store.settle(settlement(asked))

        with ThreadPoolExecutor(8) as pool:
            served = sum(pool.map(one, range(100)))
        assert served == 10
        assert store.balance(ACME, limits).spent_nano == 2_000

    # Tenants.

    @pytest.mark.parametrize("names", PAIRS, ids="/".join)
    def test_what_one_tenant_does_changes_nothing_for_another(
        self, store: AdmissionStore, booked: Booked, names: tuple[str, str]
    ) -> None:
        a, b = (Tenant(name, "free") for name in names)
        limits = replace(FREE, rpm=10, tpm=1_000, max_concurrency=1, budget_nano=300)
        before = store.balance(b, limits)
        mine = ask(a, limits)
        granted(store.reserve(mine))
        denied(store.reserve(ask(a, limits)), "budget_busy" if limits.rpm is None else "rpm")
        assert store.balance(b, limits) == before
        theirs = mine._replace(tenant=b)  # the same call id, by the other tenant
        granted(store.reserve(theirs))
        assert store.settle(settlement(mine, nano=299))
        assert store.balance(b, limits).reserved_nano == 200
        assert store.release(b, theirs.call_id, limits)
        assert [r.tenant_id for r in booked()] == [a.id]

    # The twins.

    async def test_the_async_twins_share_every_decision(self, store: AdmissionStore, booked: Booked) -> None:
        limits = replace(FREE, max_concurrency=1, budget_nano=1_000)
        held = ask(limits=limits)
        granted(await store.areserve(held))
        denied(await store.areserve(ask(limits=limits)), "concurrency")
        more = held._replace(prompt_tokens=0, fixed_nano=0, nonce="more")
        assert granted(await store.aextend(more)).nano == 100
        assert (await store.abalance(ACME, limits)).reserved_nano == 300
        assert await store.asettle(settlement(held, nano=300))
        assert not await store.asettle(settlement(held, nano=300))
        other = ask(limits=limits)
        granted(await store.areserve(other))
        assert await store.arelease(ACME, other.call_id, limits)
        assert (await store.abalance(ACME, limits)).spent_nano == 300
        assert len(booked()) == 1
        await store.aclose()
