"""Hazards of LlamaIndex: an index or pipeline object that tenants share keeps one memory of documents for all."""

from __future__ import annotations

from typing import Any

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import BaseNode, IndexNode, TransformComponent

from tenant_middleware import Tenancy, scope
from tenant_middleware.llamaindex import TenantEmbedding, TenantKVStore, TenantVectorStore, tenant_index
from tenant_middleware.local import llama_embedding
from tests.hazards.scoreboard import ACME, GLOBEX, POLICY, Hazard

TERMS = Document(doc_id="terms", text="Payment is due within 30 days.")


def _indexes(tenancy: Tenancy) -> dict[str, Any]:
    """LlamaIndex's index and ours, over the same store, whose vectors are the tenant's alone already."""
    embed = TenantEmbedding(llama_embedding(), model_name="openai/local", gate=tenancy.gate)
    store = TenantVectorStore(vectors=tenancy.vectors)
    context = StorageContext.from_defaults(vector_store=store)
    return {
        "bare": VectorStoreIndex(nodes=[], storage_context=context, embed_model=embed),
        "ours": tenant_index(vectors=store, embed_model=embed),
    }


def _texts(index: Any) -> list[str]:
    return [node.text for node in index.as_retriever(similarity_top_k=10).retrieve("terms of payment")]


def _swallows_a_document(which: str) -> bool:
    """Whether globex's document isn't stored because acme has one like it, and globex is told so."""
    with Tenancy.from_mapping(POLICY) as tenancy:
        index = _indexes(tenancy)[which]
        with scope(ACME):
            assert index.refresh_ref_docs([TERMS]) == [True] and _texts(index) == [TERMS.text]
        with scope(GLOBEX):
            return index.refresh_ref_docs([TERMS]) == [False] and not _texts(index)


def _mixes_index_nodes(which: str) -> bool:
    """Whether acme's IndexNode lies in the docstore for globex to read, or hides globex's nodes from it."""
    with Tenancy.from_mapping(POLICY) as tenancy:
        index = _indexes(tenancy)[which]
        with scope(ACME):
            index.insert_nodes([IndexNode(id_="n", index_id="n", text="acme's margin is 40 %")])
            assert _texts(index) == ["acme's margin is 40 %"]
        with scope(GLOBEX):
            index.insert(TERMS)
            readable = any("acme" in node.get_content() for node in index.docstore.docs.values())
            return readable or _texts(index) != [TERMS.text]


class _Counting(TransformComponent):
    """A transformation that costs something; it counts how often it was run, which is no part of the cache's key."""

    _runs: int = PrivateAttr(default=0)

    def __call__(self, nodes: Any, **kwargs: Any) -> list[BaseNode]:
        self._runs += 1
        return list(nodes)


def _hits_a_cache(cache: IngestionCache) -> bool:
    """Whether globex gets from acme's cache what it should have computed, and learns that acme has the document."""
    step = _Counting()
    pipeline = IngestionPipeline(transformations=[step], cache=cache)
    with scope(ACME):
        pipeline.run(documents=[TERMS])
        pipeline.run(documents=[TERMS])
        assert step._runs == 1, "the owner's own cache isn't hit"
    with scope(GLOBEX):
        pipeline.run(documents=[TERMS])
        return step._runs == 1


ROWS = [
    Hazard(
        "H21",
        "LlamaIndex: refresh_ref_docs on a shared index",
        lambda: _swallows_a_document("bare"),
        lambda: _swallows_a_document("ours"),
    ),
    Hazard(
        "H22",
        "LlamaIndex: an IndexNode in a shared index",
        lambda: _mixes_index_nodes("bare"),
        lambda: _mixes_index_nodes("ours"),
    ),
    Hazard(
        "H23",
        "LlamaIndex: one IngestionPipeline's cache",
        lambda: _hits_a_cache(IngestionCache()),
        lambda: _hits_a_cache(IngestionCache(cache=TenantKVStore())),
    ),
]
