"""tenancy.seal() keys plain IngestionCaches and docstores by tenant, whoever made them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore

from tenant_middleware.context import scope
from tenant_middleware.errors import MissingTenant, SealError
from tenant_middleware.isolation import seal
from tenant_middleware.llamaindex import LlamaIndexSealer, TenantKVStore
from tenant_middleware.tenant import Tenant

KEEPS: Any = SimpleNamespace(exact_cache=None)


class Counted(TransformComponent):
    """Splits nothing and says how often it ran."""

    _calls: int = PrivateAttr(default=0)  # private: the pipeline hashes what is public

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        self._calls += 1
        return nodes


@pytest.fixture
def sealed() -> Iterator[None]:
    sealer = LlamaIndexSealer()
    seal.register(sealer)
    sealer.seal(KEEPS)
    yield
    sealer.unseal()


def ran(pipeline: IngestionPipeline, tenant: Tenant) -> int:
    step: Any = pipeline.transformations[0]
    before = int(step._calls)
    with scope(tenant):
        pipeline.run(documents=[Document(doc_id="d", text="the same text")])
    return int(step._calls) - before


def pipeline() -> IngestionPipeline:
    return IngestionPipeline(transformations=[Counted()], cache=IngestionCache())


def test_unsealed_one_tenants_ingestion_is_the_others_hit(pair: tuple[Tenant, Tenant]) -> None:
    bare = pipeline()
    assert [ran(bare, tenant) for tenant in pair] == [1, 0]


def test_sealed_each_tenant_ingests_for_itself(sealed: None, pair: tuple[Tenant, Tenant]) -> None:
    shared = pipeline()
    assert [ran(shared, tenant) for tenant in pair] == [1, 1]
    assert [ran(shared, tenant) for tenant in pair] == [0, 0], "its own repeat hits"
    with scope(pair[0]):
        shared.cache.clear()
    assert [ran(shared, tenant) for tenant in pair] == [1, 0], "clearing one's leaves the other's"


@pytest.mark.parametrize(
    "make", [SimpleDocumentStore, lambda: KVDocumentStore(TenantKVStore())], ids=["plain", "wrapped"]
)
async def test_a_docstore_is_every_tenants_own(sealed: None, pair: tuple[Tenant, Tenant], make: Any) -> None:
    a, b = pair
    store = make()
    with scope(a):
        store.add_documents([TextNode(id_="n", text="canary")])
        assert store.get_document("n").text == "canary" and store.document_exists("n")
        assert store.get_document_hash("n") is not None
    with scope(b):
        assert not store.document_exists("n") and store.docs == {} and store.get_all_document_hashes() == {}
        assert not await store.adocument_exists("n")
        await store.async_add_documents([TextNode(id_="n", text="of b")])
        store.delete_document("n")
    with scope(a):
        assert (await store.aget_document("n")).text == "canary"


def test_a_docstore_made_before_sealing_is_sealed_too(pair: tuple[Tenant, Tenant]) -> None:
    store = SimpleDocumentStore()
    sealer = LlamaIndexSealer()
    sealer.seal(KEEPS)
    try:
        with scope(pair[0]):
            store.add_documents([TextNode(id_="n", text="canary")])
        with scope(pair[1]):
            assert store.docs == {}
        with pytest.raises(MissingTenant):
            _ = store.docs
    finally:
        sealer.unseal()
    assert store.docs == {}, "unsealed, it looks into its own collection again"


def test_what_is_patched_after_sealing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    sealer = LlamaIndexSealer()
    reports = sealer.seal(KEEPS)
    assert {report.layer: report.state for report in reports} == {
        "Settings.embed_model cache": "absent",
        "ingestion cache": "sealed",
        "docstore": "sealed",
    }
    sealer.seal(KEEPS)
    sealer.check()
    try:
        with monkeypatch.context() as patched, pytest.raises(SealError, match="IngestionCache"):
            patched.setattr(IngestionCache, "get", lambda self, key: None)
            sealer.check()
        with monkeypatch.context() as patched, pytest.raises(SealError, match="KVDocumentStore"):
            patched.setattr(KVDocumentStore, "_node_collection", "x")
            sealer.check()
    finally:
        sealer.unseal()
    assert "_node_collection" not in vars(KVDocumentStore)
