"""Ids that providers gave out, in Redis, for several workers."""

from __future__ import annotations

from typing import Any

from tenant_middleware.backends.in_memory.provider_ids import KEPT, MOST
from tenant_middleware.backends.redis.clients import Clients, Script
from tenant_middleware.isolation.provider_state import Kind
from tenant_middleware.keys import encode, key
from tenant_middleware.tenant import Tenant

_SCRIPT = Script("provider_ids.lua")
_STORE = "provider ids"


class RedisProviderIds:
    """Keeps each tenant's newest ids, at most `most` of them, for `ttl` seconds; time is the server's."""

    def __init__(self, url: str, *, ttl: float = KEPT, most: int = MOST, timeout: float = 5.0) -> None:
        self._clients = Clients(url, timeout=timeout)
        self._ttl, self._most = max(1, round(ttl)), most

    def claim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        self._run(tenant, ["claim", _member(kind, name), self._ttl, self._most])

    def owns(self, tenant: Tenant, kind: Kind, name: str) -> bool:
        return bool(self._run(tenant, ["owns", _member(kind, name), self._ttl]))

    def clear(self, tenant: Tenant) -> int:
        return int(self._run(tenant, ["clear"]))

    async def aclaim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        await self._arun(tenant, ["claim", _member(kind, name), self._ttl, self._most])

    async def aowns(self, tenant: Tenant, kind: Kind, name: str) -> bool:
        return bool(await self._arun(tenant, ["owns", _member(kind, name), self._ttl]))

    async def aclear(self, tenant: Tenant) -> int:
        return int(await self._arun(tenant, ["clear"]))

    def close(self) -> None:
        """Close the sync connections."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the sync connections and the running loop's."""
        await self._clients.aclose()

    def _run(self, tenant: Tenant, args: list[Any]) -> Any:
        return self._clients.run(_STORE, _SCRIPT, [key(tenant, "provider")], args)

    async def _arun(self, tenant: Tenant, args: list[Any]) -> Any:
        return await self._clients.arun(_STORE, _SCRIPT, [key(tenant, "provider")], args)


def _member(kind: Kind, name: str) -> str:
    return f"{kind}.{encode(name)}"
