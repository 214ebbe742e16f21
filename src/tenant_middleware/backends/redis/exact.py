"""Exact answers in Redis, for several workers."""

from __future__ import annotations

from collections import Counter

from tenant_middleware.backends.redis.answers import ANSWERS, CACHE, store_args
from tenant_middleware.backends.redis.clients import Clients, areach, reach
from tenant_middleware.isolation.cache import CacheCount, CacheRules, RulesFor, rules_for, stamped, unstamped
from tenant_middleware.keys import key
from tenant_middleware.tenant import Tenant


class RedisExactCache:
    """An ExactCache on Redis; past `max_entries` a tenant's oldest entries go."""

    def __init__(self, url: str, *, rules: CacheRules | RulesFor, timeout: float = 5.0) -> None:
        self._clients = Clients(url, timeout=timeout)
        self._rules = rules_for(rules)
        self._seen: Counter[tuple[str, bool]] = Counter()

    def rules_for(self, tenant: Tenant) -> CacheRules:
        return self._rules(tenant)

    def lookup(self, tenant: Tenant, key: str) -> str | None:
        if not self._rules(tenant).enabled:
            return None
        return self._opened(tenant, key, reach(CACHE, lambda: self._clients.sync.hget(_place(tenant, key), "value")))

    def store(self, tenant: Tenant, key: str, value: str) -> None:
        rules = self._rules(tenant)
        if rules.enabled:
            args = store_args(rules, {"value": stamped(tenant, key, value)})
            reach(CACHE, lambda: ANSWERS.run(self._clients.sync, [_list(tenant), _place(tenant, key)], args))

    def clear(self, tenant: Tenant) -> int:
        return int(reach(CACHE, lambda: ANSWERS.run(self._clients.sync, [_list(tenant)], ["clear"])))

    def count(self, tenant: Tenant) -> CacheCount:
        return self._count(tenant, reach(CACHE, lambda: ANSWERS.run(self._clients.sync, [_list(tenant)], ["count"])))

    async def alookup(self, tenant: Tenant, key: str) -> str | None:
        if not self._rules(tenant).enabled:
            return None
        return self._opened(tenant, key, await areach(CACHE, self._clients.here().hget(_place(tenant, key), "value")))

    async def astore(self, tenant: Tenant, key: str, value: str) -> None:
        rules = self._rules(tenant)
        if rules.enabled:
            args = store_args(rules, {"value": stamped(tenant, key, value)})
            await areach(CACHE, ANSWERS.arun(self._clients.here(), [_list(tenant), _place(tenant, key)], args))

    async def aclear(self, tenant: Tenant) -> int:
        return int(await areach(CACHE, ANSWERS.arun(self._clients.here(), [_list(tenant)], ["clear"])))

    async def acount(self, tenant: Tenant) -> CacheCount:
        counted = await areach(CACHE, ANSWERS.arun(self._clients.here(), [_list(tenant)], ["count"]))
        return self._count(tenant, counted)

    def close(self) -> None:
        """Close the sync connections."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the sync connections and the running loop's."""
        await self._clients.aclose()

    def _opened(self, tenant: Tenant, key: str, raw: bytes | None) -> str | None:
        found = None if raw is None else unstamped(tenant, key, raw)
        self._seen[tenant.id, found is not None] += 1
        return found

    def _count(self, tenant: Tenant, entries: int) -> CacheCount:
        return CacheCount(entries, self._seen[tenant.id, True], self._seen[tenant.id, False])


def _list(tenant: Tenant) -> str:
    return key(tenant, "exact")


def _place(tenant: Tenant, name: str) -> str:
    return key(tenant, "exact", name)
