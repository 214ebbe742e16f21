"""A write to a tenant's documents makes its older cached answers miss, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenant_middleware import Tenancy
from tenant_middleware.backends.in_memory.cache import InMemoryVersions
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.cache import Question, question
from tenant_middleware.isolation.knowledge import VersionedVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import towards

DOCUMENT = [Record("d", [1.0, 0.0], "the price is 5", {})]
TIER = {
    "rpm": 60,
    "tpm": 60_000,
    "max_concurrency": 4,
    "budget": {"usd": "1", "period": "month"},
    "models": ["m"],
    "max_output_tokens": 16,
}


@pytest.fixture(params=["memory", "redis"])
async def tenancy(request: pytest.FixtureRequest) -> AsyncIterator[Tenancy]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    values: dict[str, Any] = {
        "tiers": {"enterprise": TIER},
        "tenants": {name: {"tier": "enterprise"} for name in ("acme", "globex", "Acme", "acme2")},
        "prices": {"m": {"input_usd_per_million": "1", "output_usd_per_million": "1"}},
        "backends": {"cache": url},
        "secrets": {"fingerprint_key": "not a secret: for tests only"},
    }
    async with Tenancy.from_mapping(values) as opened:
        yield opened


def asked(tenancy: Tenancy, tenant: Tenant) -> Question:
    return question(tenant, tenancy.cache.rules_for(tenant), "what is the price", towards(0))


def answered(tenancy: Tenancy, tenant: Tenant) -> bool:
    return tenancy.cache.lookup(tenant, asked(tenancy, tenant)).hit


def keep(tenancy: Tenancy, tenant: Tenant) -> None:
    version = tenancy.cache.lookup(tenant, asked(tenancy, tenant)).version
    tenancy.cache.store(tenant, asked(tenancy, tenant), "5", version=version)
    assert answered(tenancy, tenant)


def changes(tenancy: Tenancy, tenant: Tenant) -> dict[str, Any]:
    vectors = tenancy.vectors
    return {
        "upsert": lambda: vectors.upsert(tenant, DOCUMENT),
        "aupsert": lambda: vectors.aupsert(tenant, DOCUMENT),
        "delete": lambda: vectors.delete(tenant, ["d"]),
        "adelete": lambda: vectors.adelete(tenant, ["d"]),
        "erase": lambda: vectors.erase(tenant),
        "aerase": lambda: vectors.aerase(tenant),
    }


async def test_every_write_makes_the_tenants_older_answers_miss(tenancy: Tenancy, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    for verb, change in changes(tenancy, a).items():
        for tenant in pair:
            keep(tenancy, tenant)
        tenancy.vectors.query(a, [1.0, 0.0])
        tenancy.vectors.count(a)
        assert answered(tenancy, a), "a read changes nothing"
        outcome = change()
        if verb.startswith("a"):
            await outcome
        assert not answered(tenancy, a), verb
        assert answered(tenancy, b), f"{verb} of another tenant"


def test_an_answer_made_while_documents_change_is_not_kept(acme: Tenant) -> None:
    """Read before the write, stored after it; and read in the middle of it."""
    versions = InMemoryVersions()
    seen: list[int] = []

    class Watched(InMemoryVectors):
        def upsert(self, *args: Any) -> None:
            seen.append(versions.current(acme))
            super().upsert(*args)

    before = versions.current(acme)
    VersionedVectors(Watched(), versions).upsert(acme, DOCUMENT)
    assert len({before, seen[0], versions.current(acme)}) == 3


async def test_a_write_that_fails_or_is_cancelled_counts_as_one(acme: Tenant) -> None:
    class Broken(InMemoryVectors):
        def upsert(self, *args: Any) -> None:
            raise OSError("half of it is written")

        async def aupsert(self, *args: Any) -> None:
            await asyncio.sleep(3600)

    versions = InMemoryVersions()
    vectors = VersionedVectors(Broken(), versions)
    with pytest.raises(OSError, match="half"):
        vectors.upsert(acme, DOCUMENT)
    assert versions.current(acme) == 2
    task = asyncio.create_task(vectors.aupsert(acme, DOCUMENT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert versions.current(acme) == 4


def test_a_name_is_no_tenant() -> None:
    vectors: Any = VersionedVectors(InMemoryVectors(), InMemoryVersions())
    with pytest.raises(InvalidInput):
        vectors.upsert("acme", DOCUMENT)
