"""Switching tenants in one process: what the one who leaves held there is gone, counted, and nobody else's is."""

from __future__ import annotations

import gc

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

from tenant_middleware import Tenancy
from tenant_middleware.backends.in_memory.cache import InMemoryExactCache, InMemorySemanticCache
from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.context import scope
from tenant_middleware.errors import TenantMismatch
from tenant_middleware.isolation.residents import RESIDENTS, Residents, Seat
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.store import TenantStore
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES, asked
from tenant_middleware.testing.history import said

TIER = {
    "rpm": 60,
    "tpm": 60_000,
    "max_concurrency": 4,
    "budget": {"usd": "1", "period": "month"},
    "models": ["m"],
    "max_output_tokens": 16,
}


def test_leaving_clears_every_registered_object_of_that_tenant_alone(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    history, exact = InMemoryHistory(), InMemoryExactCache(rules=RULES)
    semantic, saver, store = InMemorySemanticCache(rules=RULES), TenantCheckpointSaver(InMemorySaver()), None
    store = TenantStore(InMemoryStore())
    residents = Residents()
    for resident in (history, exact, semantic, saver, store):
        assert resident in list(RESIDENTS._objects), "it registers itself"
        residents.register(resident)
    for tenant in pair:
        history.append(tenant, "s", said("1", "2"))
        exact.store(tenant, "k", "v")
        semantic.store(tenant, asked(tenant, "price"), "v", version=0)
        with scope(tenant):
            saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, empty_checkpoint(), {}, {})
            store.put(("n",), "k", {"x": 1})

    seat = Seat(residents)
    assert seat.switch(a) == [] and seat.switch(a) == []
    cleared = {c.what: c.count for c in seat.switch(b)}
    assert cleared == {
        "InMemoryExactCache": 1,
        "InMemoryHistory": 2,
        "InMemorySemanticCache": 1,
        "TenantCheckpointSaver": 1,
        "TenantStore": 1,
    }
    assert seat.tenant == b
    assert history.count(a).messages == exact.count(a).entries == semantic.count(a).entries == 0
    assert history.count(b).messages == 2 and exact.count(b).entries == semantic.count(b).entries == 1
    with scope(a):
        assert list(saver.list(None)) == [] and store.search(()) == []
    with scope(b):
        assert len(list(saver.list(None))) == 1 and len(store.search(())) == 1


def test_nobody_leaves_from_inside_a_scope(pair: tuple[Tenant, Tenant]) -> None:
    seat = Seat(Residents())
    seat.switch(pair[0])
    with scope(pair[0]), pytest.raises(TenantMismatch):
        seat.switch(pair[1])
    assert seat.tenant == pair[0]


def test_registering_keeps_nothing_alive() -> None:
    residents = Residents()
    history = InMemoryHistory()
    residents.register(history)
    del history
    gc.collect()
    assert len(residents._objects) == 0


def test_a_tenancy_switches_outside_a_scope_and_says_what_it_cleared(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    values = {"tiers": {"enterprise": TIER}, "tenants": {t.id: {"tier": "enterprise"} for t in pair}}
    with Tenancy.from_mapping(values) as tenancy:
        assert tenancy.switch(a) == []
        for tenant in pair:
            tenancy.history.append(tenant, "s", said("1", "2", "3"))
            tenancy.exact_cache.store(tenant, "k", "v")
            tenancy.cache.store(tenant, asked(tenant, "price"), "v", version=0)
            tenancy.provider_state.claim(tenant, "response", "resp_1")
            tenancy.vectors.upsert(tenant, [Record("d", [1.0, 0.0])])
        with scope(a), pytest.raises(TenantMismatch):
            tenancy.switch(b)
        assert tenancy.history.count(a).messages == 3, "a refused switch clears nothing"
        with pytest.raises(TenantMismatch), scope(b):
            tenancy.switch(None)
        counts = {c.what: c.count for c in tenancy.switch(b) if c.count}
        assert counts == {
            "InMemoryExactCache": 1,
            "InMemoryHistory": 3,
            "InMemoryProviderIds": 1,
            "InMemorySemanticCache": 1,
        }
        assert tenancy.history.count(a).messages == tenancy.cache.count(a).entries == 0
        assert not tenancy.provider_state.ids.owns(a, "response", "resp_1")
        assert tenancy.history.count(b).messages == 3 and tenancy.provider_state.ids.owns(b, "response", "resp_1")
        assert tenancy.vectors.count(a) == 1, "documents are no leftovers of a session"
        assert tenancy.switch(None) != [] and tenancy.history.count(b).messages == 0
