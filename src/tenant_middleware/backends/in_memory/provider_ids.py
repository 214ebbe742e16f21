"""Ids that providers gave out, in this process: the reference for every other ProviderIds."""

from __future__ import annotations

import threading
from collections import OrderedDict

from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.isolation.provider_state import Kind
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.tenant import Tenant

KEPT = 30 * 86_400.0
"""Seconds: as long as OpenAI keeps a response."""
MOST = 100_000


class InMemoryProviderIds:
    """Keeps each tenant's newest ids, at most `most` of them, for `ttl` seconds after they were given out."""

    def __init__(self, *, ttl: float = KEPT, most: int = MOST, clock: Clock | None = None) -> None:
        self._ttl, self._most = ttl, most
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tenants: dict[str, OrderedDict[tuple[Kind, str], float]] = {}
        RESIDENTS.register(self)

    def claim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        with self._lock:
            mine = self._tenants.setdefault(tenant.id, OrderedDict())
            mine[kind, name] = self._clock.time()
            mine.move_to_end((kind, name))
            while len(mine) > self._most:
                mine.popitem(last=False)

    def owns(self, tenant: Tenant, kind: Kind, name: str) -> bool:
        mine = self._tenants.get(tenant.id)
        given = mine.get((kind, name)) if mine else None
        return given is not None and self._clock.time() - given < self._ttl

    def clear(self, tenant: Tenant) -> int:
        with self._lock:
            return len(self._tenants.pop(tenant.id, ()))

    def leave(self, tenant: Tenant) -> int:
        """Forget the tenant's ids in this process."""
        return self.clear(tenant)

    async def aclaim(self, tenant: Tenant, kind: Kind, name: str) -> None:
        self.claim(tenant, kind, name)

    async def aowns(self, tenant: Tenant, kind: Kind, name: str) -> bool:
        return self.owns(tenant, kind, name)

    async def aclear(self, tenant: Tenant) -> int:
        return self.clear(tenant)
