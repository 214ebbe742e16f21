"""Everything in one Redis that is named after a tenant: what an erasure takes out last, and counts afterwards."""

from __future__ import annotations

from collections.abc import Iterator

from tenant_middleware.backends.redis.clients import Clients, reach
from tenant_middleware.keys import decode, key_prefix
from tenant_middleware.tenant import Tenant

STORE = "keys"
_BATCH = 500


class RedisKeyspace:
    """The keys that begin with a tenant's prefix, whichever backend wrote them."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self._clients = Clients(url, timeout=timeout)

    def erase(self, tenant: Tenant) -> int:
        """Delete them all; returns how many there were."""
        return sum(self._unlink(name) for name in self._names(tenant))

    def leftovers(self, tenant: Tenant) -> list[str]:
        """What kind of keys are still there, by the part that says whose store they are."""
        return sorted({_kind(name.decode(), tenant) for name in self._names(tenant)})

    def close(self) -> None:
        self._clients.close()

    def _unlink(self, name: bytes) -> int:
        return int(reach(STORE, lambda: self._clients.sync.unlink(name)))

    def _names(self, tenant: Tenant) -> Iterator[bytes]:
        pattern = f"{key_prefix(tenant)}*"
        yield from reach(STORE, lambda: list(self._clients.sync.scan_iter(match=pattern, count=_BATCH)))


def _kind(name: str, tenant: Tenant) -> str:
    part = name.removeprefix(key_prefix(tenant)).split(":", 1)[0].split(".", 1)[0]
    try:
        return decode(part)
    except ValueError:
        return part
