"""The caches on a real Redis keep the contracts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis import Redis

from tenant_middleware import Tenancy
from tenant_middleware.backends.redis.exact import RedisExactCache
from tenant_middleware.backends.redisvl.cache import RedisSemanticCache
from tenant_middleware.errors import InvalidInput, SettingsError, StoreUnavailable
from tenant_middleware.isolation.cache import CacheRules
from tenant_middleware.keys import encode, key_prefix
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES, ExactCacheContract, SemanticCacheContract, asked


class TestRedisExactCache(ExactCacheContract):
    @pytest.fixture
    async def new_cache(self, redis_url: str) -> AsyncIterator[Callable[[CacheRules], RedisExactCache]]:
        made: list[RedisExactCache] = []

        def new(rules: CacheRules) -> RedisExactCache:
            made.append(RedisExactCache(redis_url, rules=rules))
            return made[-1]

        yield new
        for cache in made:
            await cache.aclose()

    @pytest.fixture
    def advance(self, pass_time: Callable[[float], None]) -> Callable[[float], None]:
        return pass_time

    @pytest.fixture
    def tamper(self, redis_url: str) -> Callable[..., None]:
        def hand_over(cache: RedisExactCache, owner: Tenant, other: Tenant) -> None:
            with Redis.from_url(redis_url, decode_responses=True) as client:
                for name in list(client.scan_iter(f"{key_prefix(owner)}*", _type="hash")):
                    client.copy(name, name.replace(key_prefix(owner), key_prefix(other)))

        return hand_over


class TestRedisSemanticCache(SemanticCacheContract):
    @pytest.fixture
    async def new_cache(self, redis_url: str) -> AsyncIterator[Callable[[CacheRules], RedisSemanticCache]]:
        made: list[RedisSemanticCache] = []

        def new(rules: CacheRules) -> RedisSemanticCache:
            made.append(RedisSemanticCache(redis_url, rules=rules))
            return made[-1]

        yield new
        for cache in made:
            await cache.aclose()

    @pytest.fixture
    def advance(self, pass_time: Callable[[float], None]) -> Callable[[float], None]:
        return pass_time

    @pytest.fixture
    def tamper(self, redis_url: str) -> Callable[..., None]:
        def relabel(cache: RedisSemanticCache, owner: Tenant, other: Tenant) -> None:
            """What a script that sets the wrong tags would leave behind."""
            with Redis.from_url(redis_url, decode_responses=False) as client:
                (name,) = client.scan_iter("tm_answers_4:*")
                tags = {"tenant": encode(other.id), "bucket": asked(other, "price").bucket}
                client.hset(name, mapping=tags)

        return relabel


def test_answers_lie_under_their_tenant_and_none_stays_for_ever(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    cache = RedisSemanticCache(redis_url, rules=RULES)
    for tenant in pair:
        cache.store(tenant, asked(tenant, "price"), "v", version=0)
    cache.close()
    with Redis.from_url(redis_url, decode_responses=True) as client:
        names = set(client.scan_iter())
        assert {sum(f"{{{encode(t.id)}}}" in name for t in pair) for name in names} == {1}
        assert all(client.pttl(name) > 0 for name in names)


def test_an_index_that_vanished_is_a_miss_and_comes_back(redis_url: str, acme: Tenant) -> None:
    cache = RedisSemanticCache(redis_url, rules=RULES)
    cache.store(acme, asked(acme, "price"), "v", version=0)
    with Redis.from_url(redis_url) as client:
        client.execute_command("FT.DROPINDEX", "tm_answers_4", "DD")
    assert not cache.lookup(acme, asked(acme, "price")).hit
    cache.store(acme, asked(acme, "price"), "v", version=0)
    assert cache.lookup(acme, asked(acme, "price")).hit
    cache.close()


def test_embeddings_of_two_sizes_do_not_meet(redis_url: str, acme: Tenant) -> None:
    from dataclasses import replace

    cache = RedisSemanticCache(redis_url, rules=RULES)
    small = asked(acme, "price")
    large = replace(small, embedding=(*small.embedding, 0.0))
    cache.store(acme, small, "small", version=0)
    assert not cache.lookup(acme, large).hit
    cache.store(acme, large, "large", version=0)
    assert (cache.lookup(acme, small).answer, cache.lookup(acme, large).answer) == ("small", "large")
    cache.close()


def test_redisvls_own_cache_reads_the_index(redis_url: str, acme: Tenant) -> None:
    """The layout is RedisVL's; the control: without our filter it hands over anybody's answer."""
    from redisvl.extensions.cache.llm import SemanticCache

    from tenant_middleware.backends.redisvl.cache import _Given

    cache = RedisSemanticCache(redis_url, rules=RULES)
    cache.store(acme, asked(acme, "price"), "canary", version=0)
    with Redis.from_url(redis_url) as client:
        theirs = SemanticCache(
            name="tm_answers_4",
            vectorizer=_Given(model="given", dims=4),
            filterable_fields=[{"name": "tenant", "type": "tag"}, {"name": "bucket", "type": "tag"}],
            redis_client=client,
        )
        hits = theirs._index.search("*").docs
    assert json.loads(hits[0].response)[2] == "canary"
    cache.close()


def test_a_cluster_is_refused_at_start_up() -> None:
    with pytest.raises(InvalidInput, match="one shard"):
        RedisSemanticCache("redis+cluster://127.0.0.1:1", rules=RULES)


async def test_a_server_that_is_gone_raises_our_error(unused_port: int, acme: Tenant) -> None:
    cache = RedisSemanticCache(f"redis://127.0.0.1:{unused_port}", rules=RULES, timeout=0.2)
    with pytest.raises(StoreUnavailable) as caught:
        await cache.alookup(acme, asked(acme, "the secret question"))
    assert "secret" not in str(caught.value) and caught.value.__context__ is None
    await cache.aclose()


@pytest.mark.parametrize("place", ["default", "tier", "tenant"])
def test_a_cache_that_workers_share_needs_a_key_before_anything_opens(place: str) -> None:
    """Wherever its URL stands; with a key of each process's own, workers would miss one another's answers."""
    shared = {"cache": "redis://127.0.0.1:1/0"}
    tier = {"rpm": 60, "tpm": 6_000, "max_concurrency": 1, "models": ["m"], "max_output_tokens": 16}
    values: dict[str, Any] = {
        "tiers": {"gold": tier | {"budget": {"usd": "1", "period": "month"}}},
        "tenants": {"acme": {"tier": "gold"}},
        "prices": {"m": {"per_call_usd": "1"}},
    }
    where = {"default": values, "tier": values["tiers"]["gold"], "tenant": values["tenants"]["acme"]}[place]
    where["backends"] = shared
    with pytest.raises(SettingsError, match=r"secrets\.fingerprint_key.*TENANCY__SECRETS__FINGERPRINT_KEY"):
        Tenancy.from_mapping(values)
    Tenancy.from_mapping(values | {"secrets": {"fingerprint_key": "not a secret: for tests only"}}).close()
