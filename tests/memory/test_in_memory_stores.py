"""The in-memory backends keep the contracts, and the contracts notice a backend that doesn't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache, InMemorySemanticCache
from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.isolation.cache import CacheRules
from tenant_middleware.isolation.history import HistoryLimits
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.cache import RULES, ExactCacheContract, SemanticCacheContract
from tenant_middleware.testing.history import HistoryContract, NewHistory


class TestInMemoryHistory(HistoryContract):
    @pytest.fixture
    def new_history(self, clock: ManualClock) -> NewHistory:
        return lambda limits: InMemoryHistory(limits=limits, clock=clock)

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance


class TestInMemoryExactCache(ExactCacheContract):
    @pytest.fixture
    def new_cache(self, clock: ManualClock) -> Callable[[CacheRules], InMemoryExactCache]:
        return lambda rules: InMemoryExactCache(rules=rules, clock=clock)

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance

    @pytest.fixture
    def tamper(self) -> Callable[..., None]:
        def hand_over(cache: InMemoryExactCache, owner: Tenant, other: Tenant) -> None:
            cache._tenants[other.id] = cache._tenants[owner.id]

        return hand_over


class TestInMemorySemanticCache(SemanticCacheContract):
    @pytest.fixture
    def new_cache(self, clock: ManualClock) -> Callable[[CacheRules], InMemorySemanticCache]:
        return lambda rules: InMemorySemanticCache(rules=rules, clock=clock)

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance

    @pytest.fixture
    def tamper(self) -> Callable[..., None]:
        def hand_over(cache: InMemorySemanticCache, owner: Tenant, other: Tenant) -> None:
            from tenant_middleware.testing.cache import asked

            bucket = asked(other, "price").bucket
            (entry,) = cache._tenants[owner.id].values()
            cache._buckets[other.id, bucket] = {entry.text: entry}

        return hand_over


class _Careless(InMemoryHistory):
    """A store with the guard off: one partition for everybody."""

    def append(self, tenant, session, messages):
        return super().append(replace(tenant, id="everybody"), session, messages)

    def read(self, tenant, session, *, last=None):
        return super().read(replace(tenant, id="everybody"), session, last=last)


def test_the_history_contract_notices_a_store_without_tenants() -> None:
    a, b = Tenant("acme", "free"), Tenant("globex", "free")
    with pytest.raises(AssertionError):
        HistoryContract().test_each_tenant_reads_its_own(_Careless(limits=HistoryLimits()), (a, b))


def test_the_cache_contract_notices_a_cache_without_tenants() -> None:
    class Careless(InMemoryExactCache):
        def store(self, tenant, key, value):
            super().store(replace(tenant, id="everybody"), key, value)

        def lookup(self, tenant, key):
            return super().lookup(replace(tenant, id="everybody"), key)

    with pytest.raises(AssertionError):
        ExactCacheContract().test_each_tenant_finds_its_own(
            Careless(rules=RULES), (Tenant("acme", "free"), Tenant("globex", "free"))
        )
