"""Exact answers in Redis, for several workers."""

from __future__ import annotations

from tenant_middleware.backends.redis.answers import ANSWERS, CACHE, RedisAnswers, store_args
from tenant_middleware.backends.redis.clients import areach, reach
from tenant_middleware.isolation.cache import CacheRules, RulesFor, stamped, unstamped
from tenant_middleware.keys import key
from tenant_middleware.tenant import Tenant


class RedisExactCache(RedisAnswers):
    """An ExactCache on Redis; past `max_entries` a tenant's oldest entries go."""

    def __init__(self, url: str, *, rules: CacheRules | RulesFor, timeout: float = 5.0) -> None:
        super().__init__(url, "exact", rules, timeout)

    def lookup(self, tenant: Tenant, key: str) -> str | None:
        if not self._rules(tenant).enabled:
            return None
        return self._opened(tenant, key, reach(CACHE, lambda: self._clients.sync.hget(_place(tenant, key), "value")))

    def store(self, tenant: Tenant, key: str, value: str) -> None:
        rules = self._rules(tenant)
        if rules.enabled:
            args = store_args(rules, {"value": stamped(tenant, key, value)})
            self._clients.run(CACHE, ANSWERS, [self._list(tenant), _place(tenant, key)], args)

    async def alookup(self, tenant: Tenant, key: str) -> str | None:
        if not self._rules(tenant).enabled:
            return None
        return self._opened(tenant, key, await areach(CACHE, self._clients.here().hget(_place(tenant, key), "value")))

    async def astore(self, tenant: Tenant, key: str, value: str) -> None:
        rules = self._rules(tenant)
        if rules.enabled:
            args = store_args(rules, {"value": stamped(tenant, key, value)})
            await self._clients.arun(CACHE, ANSWERS, [self._list(tenant), _place(tenant, key)], args)

    def _opened(self, tenant: Tenant, key: str, raw: bytes | None) -> str | None:
        found = None if raw is None else unstamped(tenant, key, raw)
        self._seen[tenant.id, found is not None] += 1
        return found


def _place(tenant: Tenant, name: str) -> str:
    return key(tenant, "exact", name)
