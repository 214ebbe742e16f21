"""The store under LlamaIndex's own index, and our retriever: what a caller passes can't widen anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters

from tenant_middleware import ConfigurationError, InvalidInput, MissingTenant, TenancyError, TenantMismatch, scope
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.llamaindex import TenantRetriever, TenantVectorStore
from tenant_middleware.tenant import Tenant

A, B = Tenant("acme", "free"), Tenant("globex", "free")
EMBED = MockEmbedding(embed_dim=4)
QUESTION = "What does Premium cost?"


def _eq(key: str, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, value=value)


@pytest.fixture
def store() -> TenantVectorStore:
    return TenantVectorStore(InMemoryVectors(isolation="filter"))


@pytest.fixture
def index(store: TenantVectorStore) -> VectorStoreIndex:
    made = VectorStoreIndex.from_vector_store(store, embed_model=EMBED)
    for tenant in (A, B):
        with scope(tenant):
            for name in ("doc1", "doc10"):
                made.insert(Document(doc_id=name, text=f"{name} of {tenant.id}", metadata={"kind": "price"}))
    return made


def _texts(retriever: Any) -> list[str]:
    return sorted(found.node.get_content() for found in retriever.retrieve(QUESTION))


OWN = ["doc1 of acme", "doc10 of acme"]


@pytest.mark.parametrize(
    "options",
    [
        {"filters": MetadataFilters(filters=[])},
        {"filter": {"kind": "nothing"}},
        {"namespace": "globex"},
        {"tenant": "globex"},
        {"vector_store_kwargs": {"filter": {}}},
        {"vector_store_kwargs": {"namespace": "globex"}},
        {"filters": MetadataFilters(filters=[_eq("tenant_id", "globex")])},
        {
            "filters": MetadataFilters(
                filters=[_eq("tenant_id", "globex"), _eq("kind", "price")], condition=FilterCondition.OR
            )
        },
        {"filters": MetadataFilters(filters=[_eq("kind", "other")], condition=FilterCondition.NOT)},
        {"vector_store_query_mode": "hybrid", "alpha": 1.0},
        {"doc_ids": ["doc1", "doc10"]},
    ],
    ids=repr,
)
def test_no_option_of_an_index_retriever_widens_the_search(index: VectorStoreIndex, options: dict[str, Any]) -> None:
    with scope(A):
        assert _texts(index.as_retriever(similarity_top_k=10)) == OWN
        try:
            assert _texts(index.as_retriever(similarity_top_k=10, **options)) == OWN
        except TenancyError as refusal:
            assert "globex" not in str(refusal)


def test_vector_store_kwargs_that_reach_the_store_are_refused(index: VectorStoreIndex) -> None:
    with scope(A):
        with pytest.raises(InvalidInput):
            index.as_retriever(vector_store_kwargs={"filter": {}}).retrieve(QUESTION)
        mmr = index.as_retriever(
            similarity_top_k=5, vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 0.3}
        )
        assert _texts(mmr) == OWN


def test_documents_are_replaced_and_deleted_exactly(index: VectorStoreIndex) -> None:
    with scope(A):
        index.update_ref_doc(Document(doc_id="doc1", text="doc1 of acme, new"))
        assert _texts(index.as_retriever(similarity_top_k=10)) == ["doc1 of acme, new", "doc10 of acme"]
        index.delete_ref_doc("doc1")
        assert _texts(index.as_retriever(similarity_top_k=10)) == ["doc10 of acme"]
    with scope(B):
        assert _texts(index.as_retriever(similarity_top_k=10)) == ["doc1 of globex", "doc10 of globex"]


async def test_query_engines_answer_from_the_tenants_own_nodes(index: VectorStoreIndex) -> None:
    with scope(A):
        engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=10)
        for answer in (engine.query(QUESTION), await engine.aquery(QUESTION)):
            assert sorted(found.node.get_content() for found in answer.source_nodes) == OWN
    with pytest.raises(MissingTenant):
        engine.query(QUESTION)
    with pytest.raises(MissingTenant):
        await engine.aquery(QUESTION)


def _retriever(store: TenantVectorStore, **options: Any) -> TenantRetriever:
    return TenantRetriever(store=store, embed_model=EMBED, **{"similarity_top_k": 10, **options})


async def test_the_retriever_serves_whoever_calls_it(index: VectorStoreIndex, store: TenantVectorStore) -> None:
    retriever = _retriever(store)
    for tenant in (A, B):
        with scope(tenant):
            texts = [f"doc1 of {tenant.id}", f"doc10 of {tenant.id}"]
            assert _texts(retriever) == texts
            assert sorted(found.text for found in await retriever.aretrieve(QUESTION)) == texts
            engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
            assert sorted(found.text for found in (await engine.aquery(QUESTION)).source_nodes) == texts
    with pytest.raises(MissingTenant):
        retriever.retrieve(QUESTION)
    with pytest.raises(MissingTenant):
        retriever.aretrieve(QUESTION)


async def test_many_tenants_at_once_get_their_own(index: VectorStoreIndex, store: TenantVectorStore) -> None:
    retriever = _retriever(store)

    async def ask(tenant: Tenant) -> bool:
        with scope(tenant):
            found = await retriever.aretrieve(QUESTION)
            return len(found) == 2 and all(tenant.id in item.text for item in found)

    assert all(await asyncio.gather(*(ask((A, B)[n % 2]) for n in range(40))))


async def test_a_retrieval_belongs_to_who_began_it(index: VectorStoreIndex, store: TenantVectorStore) -> None:
    with scope(A):
        mine = _retriever(store).aretrieve(QUESTION)
    with scope(B), pytest.raises(TenantMismatch):
        await mine


def test_what_the_retriever_is_bound_to(index: VectorStoreIndex, store: TenantVectorStore) -> None:
    with scope(A):
        assert _texts(_retriever(store, doc_ids=["doc1"])) == ["doc1 of acme"]
        assert _texts(_retriever(store, doc_ids=[])) == []
        assert _texts(_retriever(store, filters=MetadataFilters(filters=[_eq("kind", "other")]))) == []
        assert len(_texts(_retriever(store, mode="mmr", mmr_threshold=0.2, mmr_prefetch_k=9))) == 2
        (first, _) = _retriever(store).retrieve(QueryBundle("", embedding=[0.5] * 4))
        assert first.score == pytest.approx(1.0)
        assert _texts(_retriever(store, node_ids=[first.node.node_id])) == [first.node.get_content()]


@pytest.mark.parametrize(
    "options",
    [
        {"similarity_top_k": 0},
        {"mode": "hybrid"},
        {"mode": "mmr", "mmr_threshold": 2},
        {"mmr_prefetch_k": 5},
        {"filters": {"kind": "x"}},
        {"filters": MetadataFilters(filters=[_eq("tenant_id", "globex")])},
        {"doc_ids": "doc1"},
    ],
    ids=repr,
)
def test_a_wrong_option_is_an_error_when_the_retriever_is_made(
    store: TenantVectorStore, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        _retriever(store, **options)


def test_what_the_retriever_needs(store: TenantVectorStore) -> None:
    with pytest.raises(ConfigurationError):
        TenantRetriever(store=InMemoryVectors(), embed_model=EMBED)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        TenantRetriever(store=store, embed_model="local")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        TenantRetriever(store=store, embed_model=EMBED, namespace="globex")  # type: ignore[call-arg]


def test_what_langchain_stored_is_found_too(store: TenantVectorStore) -> None:
    store.vectors.upsert(A, [Record("r", [0.5] * 4, "from elsewhere", {"page": 1})])
    with scope(A):
        (found,) = _retriever(store).retrieve(QUESTION)
    assert (found.node.node_id, found.text, found.metadata) == ("r", "from elsewhere", {"page": 1})
