"""LangChain's composite retrievers over ours: each hop stays with the tenant, and refusals come through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryStore

from tenant_middleware.backends.in_memory import InMemoryVectors
from tenant_middleware.context import scope
from tenant_middleware.errors import IsolationBreach, MissingTenant
from tenant_middleware.langchain import TenantVectorStore, stamp, verify_tenant
from tenant_middleware.tenant import Tenant

retrievers = pytest.importorskip("langchain_classic.retrievers")
EMBEDDING = DeterministicFakeEmbedding(size=8)


class Copied(BaseDocumentCompressor):
    """Makes new documents of what it keeps, as extracting compressors do."""

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        return [Document(page_content=doc.page_content, metadata=doc.metadata) for doc in documents]


@pytest.fixture
def store(pair: tuple[Tenant, Tenant]) -> TenantVectorStore:
    store = TenantVectorStore(vectors=InMemoryVectors(isolation="filter"), embedding=EMBEDDING)
    for number, tenant in enumerate(pair):
        with scope(tenant):
            store.add_texts([f"one of {number}", f"two of {number}"], ids=["1", "2"])
    return store


def composed(store: TenantVectorStore) -> Iterator[tuple[str, Any]]:
    base = store.as_retriever(stamped=True)
    yield "multi-query", retrievers.MultiQueryRetriever.from_llm(base, FakeListLLM(responses=["a\nb"]))
    yield (
        "compression",
        retrievers.ContextualCompressionRetriever(base_retriever=base, base_compressor=Copied()),
    )
    yield "ensemble", retrievers.EnsembleRetriever(retrievers=[base, store.as_retriever(stamped=True)], weights=[1, 1])


def test_each_hop_stays_with_the_tenant(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    for name, retriever in composed(store):
        chain = retriever | verify_tenant
        for number, tenant in enumerate(pair):
            with scope(tenant):
                found = sorted(doc.page_content for doc in chain.invoke("one"))
                assert found == [f"one of {number}", f"two of {number}"], name
        with pytest.raises(MissingTenant):
            chain.invoke("one")


async def test_awaited_hops_too(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    for name, retriever in composed(store):
        for number, tenant in enumerate(pair):
            with scope(tenant):
                found = sorted(doc.page_content for doc in await (retriever | verify_tenant).ainvoke("one"))
                assert found == [f"one of {number}", f"two of {number}"], name


def test_a_foreign_document_among_a_composite_result_is_stopped(
    store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    leaking = RunnableLambda(lambda question: [Document(page_content="canary", metadata={"source": "elsewhere"})])
    ensemble = retrievers.EnsembleRetriever(retrievers=[store.as_retriever(stamped=True), leaking], weights=[1, 1])
    with scope(pair[0]):
        assert "canary" in [doc.page_content for doc in ensemble.invoke("one")], "without the check the leak must show"
        with pytest.raises(IsolationBreach):
            (ensemble | verify_tenant).invoke("one")


def test_parents_from_a_shared_docstore_are_verified(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    """The parent's docstore isn't ours: equal parent ids overwrite each other there, and the stamp shows it."""
    splitters = pytest.importorskip("langchain_text_splitters")
    parents = retrievers.ParentDocumentRetriever(
        vectorstore=store,
        docstore=InMemoryStore(),
        child_splitter=splitters.CharacterTextSplitter(chunk_size=20, chunk_overlap=0, separator=". "),
    )
    text = "A first sentence. A second one. A third one of {}"
    with scope(pair[0]):
        parents.add_documents(stamp([Document(page_content=text.format("first"))]), ids=["parent"])
        assert [doc.page_content for doc in (parents | verify_tenant).invoke("sentence")] == [text.format("first")]
    with scope(pair[1]):
        parents.add_documents(stamp([Document(page_content=text.format("second"))]), ids=["parent"])
        assert [doc.page_content for doc in (parents | verify_tenant).invoke("sentence")] == [text.format("second")]
    with scope(pair[0]):
        assert text.format("second") in [doc.page_content for doc in parents.invoke("sentence")], "the framework leaks"
        with pytest.raises(IsolationBreach):
            (parents | verify_tenant).invoke("sentence")
