"""LlamaIndex's key-value store, under docstores, index stores and caches, with the tenant in every key."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, missing_extra
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.keys import encode, namespace
from tenant_middleware.llamaindex.pinned import called_now
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.storage.kvstore import SimpleKVStore
    from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

Value = dict[str, Any]
Pairs = list[tuple[str, Value]]


class TenantKVStore(BaseKVStore):
    """Wraps a BaseKVStore so that each tenant has collections of its own; without one, it keeps them in memory.

    `KVDocumentStore(TenantKVStore(...))` is a docstore, `IngestionCache(cache=TenantKVStore(...))` a cache for all
    tenants. The tenant is read when a method is called.
    """

    def __init__(self, inner: BaseKVStore | None = None) -> None:
        if isinstance(inner, TenantKVStore):
            raise ConfigurationError("TenantKVStore: the inner store is wrapped already")
        self.inner = inner if inner is not None else SimpleKVStore()
        if isinstance(self.inner, SimpleKVStore):
            RESIDENTS.register(self)

    def put(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> None:
        self.inner.put(key, val, collection=own_collection(collection))

    def aput(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> Coroutine[Any, Any, None]:
        return called_now(self.inner.aput, key, val, collection=own_collection(collection))

    def put_all(
        self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> None:
        self.inner.put_all(kv_pairs, collection=own_collection(collection), batch_size=batch_size)

    def aput_all(
        self, kv_pairs: Pairs, collection: str = DEFAULT_COLLECTION, batch_size: int = DEFAULT_BATCH_SIZE
    ) -> Coroutine[Any, Any, None]:
        return called_now(self.inner.aput_all, kv_pairs, collection=own_collection(collection), batch_size=batch_size)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> Value | None:
        return self.inner.get(key, collection=own_collection(collection))

    def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> Coroutine[Any, Any, Value | None]:
        return called_now(self.inner.aget, key, collection=own_collection(collection))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, Value]:
        return self.inner.get_all(collection=own_collection(collection))

    def aget_all(self, collection: str = DEFAULT_COLLECTION) -> Coroutine[Any, Any, dict[str, Value]]:
        return called_now(self.inner.aget_all, collection=own_collection(collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        return self.inner.delete(key, collection=own_collection(collection))

    def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> Coroutine[Any, Any, bool]:
        return called_now(self.inner.adelete, key, collection=own_collection(collection))

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's collections from this process; stores elsewhere aren't asked."""
        if not isinstance(self.inner, SimpleKVStore):
            return 0
        mine, collections = namespace(tenant), self.inner._collections_mappings
        dropped = [collections.pop(name) for name in list(collections) if name.startswith(mine)]
        return sum(map(len, dropped))


def own_collection(collection: str) -> str:
    """Encoded: as part of a path or a pattern, a caller's name would reach out of the tenant."""
    return f"{namespace(current_tenant())}{encode(collection)}"
