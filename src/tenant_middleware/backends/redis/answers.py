"""What exact and semantic answers in Redis share: one tenant's list of them, and knowledge versions."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

from tenant_middleware.backends.redis.clients import Clients, Script, areach, reach
from tenant_middleware.isolation.cache import CacheCount, CacheRules, RulesFor, rules_for
from tenant_middleware.keys import key
from tenant_middleware.tenant import Tenant

ANSWERS = Script("answers.lua")
CACHE = "cache"


class RedisVersions:
    """Knowledge versions in Redis, without an end: an answer must not outlive the version it was made under."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    @staticmethod
    @lru_cache(maxsize=4096)
    def place(tenant: Tenant) -> str:
        """The key of the tenant's version."""
        return key(tenant, "knowledge")

    def current(self, tenant: Tenant) -> int:
        return int(reach(CACHE, lambda: self._clients.sync.get(self.place(tenant))) or 0)

    def bump(self, tenant: Tenant) -> int:
        return int(reach(CACHE, lambda: self._clients.sync.incr(self.place(tenant))))

    async def acurrent(self, tenant: Tenant) -> int:
        return int(await areach(CACHE, self._clients.here().get(self.place(tenant))) or 0)

    async def abump(self, tenant: Tenant) -> int:
        return int(await areach(CACHE, self._clients.here().incr(self.place(tenant))))


class RedisAnswers:
    """What both caches in Redis have: a list of each tenant's answers, which bounds, counts and clears them."""

    def __init__(self, url: str, listed: str, rules: CacheRules | RulesFor, timeout: float) -> None:
        self._clients = Clients(url, timeout=timeout)
        self._listed, self._rules = listed, rules_for(rules)
        self._seen: Counter[tuple[str, bool]] = Counter()

    def rules_for(self, tenant: Tenant) -> CacheRules:
        return self._rules(tenant)

    def clear(self, tenant: Tenant) -> int:
        return int(self._clients.run(CACHE, ANSWERS, [self._list(tenant)], ["clear"]))

    def count(self, tenant: Tenant) -> CacheCount:
        return self._counted(tenant, self._clients.run(CACHE, ANSWERS, [self._list(tenant)], ["count"]))

    async def aclear(self, tenant: Tenant) -> int:
        return int(await self._clients.arun(CACHE, ANSWERS, [self._list(tenant)], ["clear"]))

    async def acount(self, tenant: Tenant) -> CacheCount:
        return self._counted(tenant, await self._clients.arun(CACHE, ANSWERS, [self._list(tenant)], ["count"]))

    def close(self) -> None:
        """Close the sync connections."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the sync connections and the running loop's."""
        await self._clients.aclose()

    def _list(self, tenant: Tenant) -> str:
        return _list_of(tenant, self._listed)

    def _counted(self, tenant: Tenant, entries: int) -> CacheCount:
        return CacheCount(entries, self._seen[tenant.id, True], self._seen[tenant.id, False])


@lru_cache(maxsize=4096)
def _list_of(tenant: Tenant, listed: str) -> str:
    return key(tenant, listed)


def store_args(rules: CacheRules, fields: dict[str, Any]) -> list[Any]:
    """Arguments of the script's verb `store`."""
    pairs = [part for pair in fields.items() for part in pair]
    return ["store", round((rules.ttl or 0) * 1000), rules.max_entries, *pairs]
