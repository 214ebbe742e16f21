"""What exact and semantic answers in Redis share: the script that stores, bounds, counts and clears one tenant's."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from tenant_middleware.backends.redis.clients import Clients, Script, areach, reach
from tenant_middleware.isolation.cache import CacheRules
from tenant_middleware.keys import key
from tenant_middleware.tenant import Tenant

ANSWERS = Script(files(__package__).joinpath("answers.lua").read_text(encoding="utf-8"))
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


def store_args(rules: CacheRules, fields: dict[str, Any]) -> list[Any]:
    """Arguments of the script's verb `store`."""
    pairs = [part for pair in fields.items() for part in pair]
    return ["store", round((rules.ttl or 0) * 1000), rules.max_entries, *pairs]
