"""One key-value store under LlamaIndex's docstores, index stores and caches: each tenant has its own collections."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.ingestion import IngestionCache
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore

from tenant_middleware import ConfigurationError, MissingTenant, Tenant, TenantMismatch, scope
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.llamaindex import TenantKVStore


def test_the_same_key_of_two_tenants_is_two_values(pair: tuple[Tenant, Tenant]) -> None:
    store = TenantKVStore()
    for tenant in pair:
        with scope(tenant):
            store.put("k", {"of": tenant.id})
            store.put_all([("l", {"of": tenant.id})], collection="more")
    for tenant in pair:
        with scope(tenant):
            assert store.get("k") == {"of": tenant.id}
            assert store.get_all() == {"k": {"of": tenant.id}}
            assert store.get_all("more") == {"l": {"of": tenant.id}}
    with scope(pair[0]):
        assert store.delete("k") and not store.delete("k")
    with scope(pair[1]):
        assert store.get("k") == {"of": pair[1].id}


async def test_the_async_twins_do_the_same(pair: tuple[Tenant, Tenant]) -> None:
    store = TenantKVStore()
    for tenant in pair:
        async with scope(tenant):
            await store.aput("k", {"of": tenant.id})
            await store.aput_all([("l", {"of": tenant.id})])
    for tenant in pair:
        async with scope(tenant):
            assert await store.aget("k") == {"of": tenant.id}
            assert await store.aget_all() == {"k": {"of": tenant.id}, "l": {"of": tenant.id}}
    with scope(pair[0]):
        reading, deleting = store.aget_all(), store.adelete("k")
    with scope(pair[1]), pytest.raises(TenantMismatch):
        await reading
    assert await deleting
    with scope(pair[1]):
        assert await store.aget("k") == {"of": pair[1].id}


@pytest.mark.parametrize("verb", ["get", "put", "get_all", "delete", "aget", "aget_all", "adelete"])
def test_without_a_tenant_nothing_is_read_or_written(verb: str) -> None:
    args: dict[str, Any] = {"put": ("k", {}), "get_all": (), "aget_all": ()}
    with pytest.raises(MissingTenant):
        getattr(TenantKVStore(), verb)(*args.get(verb, ("k",)))


def test_a_collections_name_cannot_reach_out_of_the_tenant(pair: tuple[Tenant, Tenant]) -> None:
    inner = SimpleKVStore()
    store = TenantKVStore(inner)
    with scope(pair[1]):
        store.put("k", {"of": pair[1].id})
    (theirs,) = inner.to_dict()
    with scope(pair[0]):
        for name in (theirs, f"../{theirs}", theirs.partition(".")[2]):
            assert store.get_all(name) == {}


def test_docstores_and_ingestion_caches_over_it_are_each_tenants_own(acme: Tenant, globex: Tenant) -> None:
    store = TenantKVStore()
    docs, cache = KVDocumentStore(store), IngestionCache(cache=store)
    with scope(acme):
        docs.add_documents([TextNode(id_="n", text="canary")])
        cache.put("key", [TextNode(id_="n", text="canary")])
        assert cache.get("key") is not None
    with scope(globex):
        assert not docs.document_exists("n") and docs.docs == {} and docs.get_all_document_hashes() == {}
        assert cache.get("key") is None


def test_a_tenant_that_leaves_takes_its_collections_along(acme: Tenant, globex: Tenant) -> None:
    store = TenantKVStore()
    for tenant in (acme, globex):
        with scope(tenant):
            store.put("k", {"of": tenant.id})
    assert ("TenantKVStore", 1) in [(cleared.what, cleared.count) for cleared in RESIDENTS.leave(acme)]
    with scope(acme):
        assert store.get("k") is None
    with scope(globex):
        assert store.get("k") == {"of": "globex"}


def test_it_is_not_wrapped_twice() -> None:
    with pytest.raises(ConfigurationError):
        TenantKVStore(TenantKVStore())
