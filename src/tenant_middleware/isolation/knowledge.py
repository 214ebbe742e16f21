"""Documents whose every change makes the tenant's older cached answers miss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tenant_middleware.isolation.cache import KnowledgeVersions
from tenant_middleware.isolation.place import check_tenant
from tenant_middleware.isolation.vectors import Record, Vectors, Where
from tenant_middleware.policy import Isolation
from tenant_middleware.tenant import Tenant


class VersionedVectors:
    """A `Vectors` that moves the tenant's knowledge version on before and after each write.

    Before: a worker that dies in the middle leaves no older answer valid. After, also when the write failed half way:
    what was answered meanwhile may come from documents that are gone. Everything else is the inner store's.
    """

    def __init__(
        self,
        inner: Vectors,
        versions: KnowledgeVersions,
        shared: Callable[[], Sequence[tuple[Any, Isolation]]] | None = None,
    ) -> None:
        """`shared` gives the stores behind `inner`, each with a kind of isolation in use, for `verify_isolation`."""
        self.inner = inner
        self._versions = versions
        self._shared = shared or (list)

    def verify_isolation(self, *, dimension: int | None = None) -> None:
        """Plant two probes in each store, in each way tenants share it; for start-up.

        `dimension` is needed where a store doesn't know its own. Raises IsolationBreach when one can't keep them apart.
        """
        for store, kind in self._shared():
            store.verify_isolation(kind, dimension=dimension)

    async def averify_isolation(self, *, dimension: int | None = None) -> None:
        """`verify_isolation`, by awaiting."""
        for store, kind in self._shared():
            await store.averify_isolation(kind, dimension=dimension)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def upsert(self, tenant: Tenant, records: Sequence[Record]) -> None:
        with self._changing(tenant):
            self.inner.upsert(tenant, records)

    def delete(self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None:
        with self._changing(tenant):
            self.inner.delete(tenant, ids, where=where)

    def erase(self, tenant: Tenant) -> int:
        with self._changing(tenant):
            return self.inner.erase(tenant)

    async def aupsert(self, tenant: Tenant, records: Sequence[Record]) -> None:
        async with self._achanging(tenant):
            await self.inner.aupsert(tenant, records)

    async def adelete(self, tenant: Tenant, ids: Sequence[str] | None = None, *, where: Where | None = None) -> None:
        async with self._achanging(tenant):
            await self.inner.adelete(tenant, ids, where=where)

    async def aerase(self, tenant: Tenant) -> int:
        async with self._achanging(tenant):
            return await self.inner.aerase(tenant)

    @contextmanager
    def _changing(self, tenant: Tenant) -> Iterator[None]:
        self._versions.bump(check_tenant(tenant))
        try:
            yield
        finally:
            self._versions.bump(tenant)

    @asynccontextmanager
    async def _achanging(self, tenant: Tenant) -> AsyncIterator[None]:
        await self._versions.abump(check_tenant(tenant))
        try:
            yield
        finally:
            await self._versions.abump(tenant)
