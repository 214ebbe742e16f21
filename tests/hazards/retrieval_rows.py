"""Hazards of retrieval: filters that LlamaIndex swallows, and what packages for Pinecone reach or delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document as Text
from langchain_core.embeddings import DeterministicFakeEmbedding
from llama_index.core import Document, MockEmbedding, SummaryIndex, VectorStoreIndex
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import FilterCondition, MetadataFilter, MetadataFilters

from tenant_middleware import Tenancy, TenancyError, scope
from tenant_middleware import langchain as for_langchain
from tenant_middleware import llamaindex as for_llamaindex
from tenant_middleware.backends.pinecone import PineconeVectors
from tests.hazards import old_packages
from tests.hazards.scoreboard import ACME, GLOBEX, POLICY, Hazard
from tests.pinecone_server.app import PineconeServer

DIMENSION = 4
EMBED = MockEmbedding(embed_dim=DIMENSION)
QUESTION = "What does Premium cost?"
Find = Callable[[Any], Any]

MINE = MetadataFilters(filters=[MetadataFilter(key="tenant", value="acme")])
NOTHING = MetadataFilters(filters=[])
EITHER = MetadataFilters(
    filters=[MetadataFilter(key="tenant", value="acme"), MetadataFilter(key="tenant", value="globex")],
    condition=FilterCondition.OR,
)


def _documents(*tenants: str) -> list[Document]:
    return [
        Document(text=f"canary of {name}", doc_id=f"prices of {name}", metadata={"tenant": name}) for name in tenants
    ]


def _crosses(retriever: Any) -> bool:
    """Whether a search by acme shows globex's text; acme's own must be there, or the row proves nothing."""
    texts = [found.node.get_content() for found in retriever.retrieve(QUESTION)]
    assert "canary of acme" in texts, "the owner doesn't find its own document"
    return "canary of globex" in texts


def _bare(find: Find) -> bool:
    index = VectorStoreIndex.from_documents(_documents("acme", "globex"), embed_model=EMBED)
    assert not _crosses(index.as_retriever(similarity_top_k=10, filters=MINE)), "the right keyword doesn't separate"
    return _crosses(find(index))


def _ours(find: Find) -> bool:
    """A refusal is no leak, as long as the plain search of the same tenant works."""
    with Tenancy.from_mapping(POLICY) as tenancy:
        store = for_llamaindex.TenantVectorStore(tenancy.vectors)
        index = VectorStoreIndex.from_vector_store(store, embed_model=EMBED)
        for tenant in (ACME, GLOBEX):
            with scope(tenant):
                index.insert(_documents(tenant.id)[0])
        with scope(ACME):
            assert not _crosses(index.as_retriever(similarity_top_k=10))
            try:
                return _crosses(find(index))
            except TenancyError:
                return False


def _all_leak(*finds: Find) -> Callable[[], bool]:
    return lambda: all(_bare(find) for find in finds)


def _one_leaks(*finds: Find) -> Callable[[], bool]:
    return lambda: any(_ours(find) for find in finds)


SWALLOWED: tuple[Find, ...] = (
    lambda index: index.as_retriever(similarity_top_k=10, filter=MINE),
    lambda index: index.as_retriever(similarity_top_k=10, metadata_filters=MINE),
    lambda index: index.as_retriever(similarity_top_k=10, where={"tenant": "acme"}),
)
WIDE: tuple[Find, ...] = (
    lambda index: index.as_retriever(similarity_top_k=10, filters=NOTHING),
    lambda index: index.as_retriever(similarity_top_k=10, filters=EITHER),
)


def bare_summary() -> bool:
    return _crosses(SummaryIndex.from_documents(_documents("acme", "globex")).as_retriever(filters=MINE))


def our_summary() -> bool:
    """Misspelt or not, a filter is no way out of the tenant's own nodes."""
    index = for_llamaindex.tenant_summary_index()
    for tenant in (ACME, GLOBEX):
        with scope(tenant):
            index.insert(_documents(tenant.id)[0])
    with scope(ACME):
        return _crosses(index.as_retriever(filters=MINE))


@contextmanager
def _pinecone() -> Iterator[tuple[PineconeServer, PineconeVectors]]:
    with PineconeServer() as server:
        server.create_index("docs", DIMENSION)
        vectors = PineconeVectors("docs", api_key="key", controller=server.url)
        yield server, vectors
        vectors.close()


def bare_bound_at_import() -> bool:
    with _pinecone() as (server, _):
        return old_packages.leaks("bound-at-import", server.host("key", "docs"))


def our_bound_at_import() -> bool:
    with _pinecone() as (_, vectors):
        embedding = DeterministicFakeEmbedding(size=DIMENSION)
        store = for_langchain.TenantVectorStore(vectors=vectors, embedding=embedding)
        with scope(ACME):
            retriever = store.as_retriever()
        for tenant in (ACME, GLOBEX):
            with scope(tenant):
                store.add_documents([Text(f"canary of {tenant.id}", id="1")])
        with scope(GLOBEX):
            texts = [document.page_content for document in retriever.invoke(QUESTION)]
        assert "canary of globex" in texts, "the owner doesn't find its own document"
        return "canary of acme" in texts


def bare_prefix_delete() -> bool:
    with _pinecone() as (server, _):
        server.fail(400, 1, "/vectors/delete")
        return old_packages.leaks("prefix-delete", server.host("key", "docs"))


def our_prefix_delete() -> bool:
    with _pinecone() as (server, vectors), scope(ACME):
        store = for_llamaindex.TenantVectorStore(vectors)
        for name in ("doc1", "doc10"):
            source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name)}
            store.add([TextNode(id_=name, text=name, embedding=[1.0] * DIMENSION, relationships=source)])
        server.fail(400, 1, "/vectors/delete")
        try:
            store.delete("doc1")
        except TenancyError:
            store.delete("doc1")
        left = [node.node_id for node in store.get_nodes()]
        assert "doc1" not in left, "the document wasn't deleted"
        return left != ["doc10"]


ROWS = [
    Hazard("H5", "LlamaIndex: misspelt filters are swallowed", _all_leak(*SWALLOWED), _one_leaks(*SWALLOWED)),
    Hazard("H6", "LlamaIndex: an empty filter list, an OR that names another", _all_leak(*WIDE), _one_leaks(*WIDE)),
    Hazard("H7", "LlamaIndex: SummaryIndex ignores filters", bare_summary, our_summary),
    Hazard("H16", "LangChain and Pinecone: bound at import", bare_bound_at_import, our_bound_at_import, apart=True),
    Hazard("H17", "LlamaIndex and Pinecone: delete by prefix", bare_prefix_delete, our_prefix_delete, apart=True),
]
