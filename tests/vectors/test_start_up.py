"""What an application runs when it starts: every vector store of the policy is tried, in every way it is shared."""

from __future__ import annotations

from typing import Any

import pytest

from tenant_middleware import IsolationBreach, Tenancy
from tenant_middleware.backends.in_memory.vectors import InMemoryDriver
from tenant_middleware.isolation.scoped import ScopedVectors

TIER: dict[str, Any] = {
    "rpm": 60,
    "tpm": 1000,
    "max_concurrency": 1,
    "budget": "unlimited",
    "models": ["*"],
    "max_output_tokens": 100,
}
VALUES: dict[str, Any] = {
    "tiers": {
        "free": {**TIER, "isolation": "filter"},
        "pro": {**TIER, "isolation": "namespace"},
        "own": {**TIER, "isolation": "silo"},
    }
}


async def test_a_sound_store_passes_and_keeps_nothing() -> None:
    with Tenancy.from_mapping(VALUES) as tenancy:
        tenancy.vectors.verify_isolation(dimension=4)
        await tenancy.vectors.averify_isolation(dimension=4)
        (store,) = tenancy._opener.opened("vectors")
        assert not any(store._driver._partitions.values())


async def test_one_that_ignores_filters_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    search = InMemoryDriver.query
    monkeypatch.setattr(
        InMemoryDriver, "query", lambda self, place, vector, k, where: search(self, place, vector, k, None)
    )
    with Tenancy.from_mapping(VALUES) as tenancy:
        with pytest.raises(IsolationBreach):
            tenancy.vectors.verify_isolation(dimension=4)
        with pytest.raises(IsolationBreach):
            await tenancy.vectors.averify_isolation(dimension=4)


def test_a_policy_that_shares_nothing_tries_nothing() -> None:
    with Tenancy.from_mapping({"tiers": {"own": VALUES["tiers"]["own"]}}) as tenancy:
        tenancy.vectors.verify_isolation()


def test_a_tiers_own_store_is_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    monkeypatch.setattr(ScopedVectors, "verify_isolation", lambda self, kind, dimension=None: tried.append(kind))
    pro = {**VALUES["tiers"]["pro"], "backends": {"vectors": "memory://pro"}}
    with Tenancy.from_mapping({"tiers": {**VALUES["tiers"], "pro": pro}}) as tenancy:
        tenancy.vectors.verify_isolation()
    assert tried == ["filter", "namespace"] * 2
