"""History, exact cache and provider ids on a real Redis Cluster: all keys of a tenant share a slot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.cluster import RedisCluster

from tenant_middleware.backends.redis.exact import RedisExactCache
from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.backends.redis.provider_ids import RedisProviderIds
from tenant_middleware.isolation.history import HistoryLimits, Message
from tenant_middleware.keys import encode
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES

pytestmark = pytest.mark.services


@pytest.fixture
async def opened(cluster: str) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    def new(kind: Any, **options: Any) -> Any:
        made.append(kind(cluster.replace("redis://", "redis+cluster://"), **options))
        return made[-1]

    yield new
    for backend in made:
        await backend.aclose()


async def test_a_conversation(opened: Callable[..., Any], pair: tuple[Tenant, Tenant]) -> None:
    history = opened(RedisHistory, limits=HistoryLimits(ttl=60, max_messages=3))
    for tenant in pair:
        history.append(tenant, "s", [Message("user", f"{n} of {tenant.id}") for n in range(5)])
        await history.aappend(tenant, "t", [Message("user", "x")])
    for tenant in pair:
        assert [m.content for m in await history.aread(tenant, "s")] == [f"{n} of {tenant.id}" for n in (2, 3, 4)]
        assert len(history.move_oldest(tenant, "s", "archive", 2)) == 2
        assert history.sessions(tenant) == ["archive", "s", "t"]
    assert history.clear_tenant(pair[0]) == 4 and (await history.acount(pair[1])).messages == 4
    assert await history.aclear_tenant(pair[1]) == 4


async def test_exact_answers(opened: Callable[..., Any], pair: tuple[Tenant, Tenant]) -> None:
    cache = opened(RedisExactCache, rules=RULES)
    for tenant in pair:
        for name in ("k", "l", "m"):
            await cache.astore(tenant, name, f"{name} of {tenant.id}")
    for tenant in pair:
        assert cache.lookup(tenant, "k") == f"k of {tenant.id}" == await cache.alookup(tenant, "k")
    assert cache.clear(pair[0]) == 3 and (await cache.acount(pair[1])).entries == 3
    assert await cache.aclear(pair[1]) == 3


async def test_provider_ids(opened: Callable[..., Any], pair: tuple[Tenant, Tenant]) -> None:
    ids = opened(RedisProviderIds)
    ids.claim(pair[0], "response", "resp_1")
    assert await ids.aowns(pair[0], "response", "resp_1") and not ids.owns(pair[1], "response", "resp_1")
    assert await ids.aclear(pair[0]) == 1


def test_a_tenants_keys_share_a_slot(opened: Callable[..., Any], cluster: str, pair: tuple[Tenant, Tenant]) -> None:
    history = opened(RedisHistory, limits=HistoryLimits(max_tokens=100))
    cache = opened(RedisExactCache, rules=RULES)
    for tenant in pair:
        history.append(tenant, "s", [Message("user", "x")])
        cache.store(tenant, "k", "v")
    with RedisCluster.from_url(cluster) as client:
        names = [name.decode() for name in client.scan_iter(count=1000)]
        for tenant in pair:
            mine = [name for name in names if f"{{{encode(tenant.id)}}}" in name]
            assert len(mine) >= 5 and len({client.keyslot(name) for name in mine}) == 1
    for tenant in pair:
        history.clear_tenant(tenant), cache.clear(tenant)
