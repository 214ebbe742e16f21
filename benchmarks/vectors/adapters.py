"""Our retrievers against the frameworks' own over the same Redis, and what ours adds to a search in memory.

The frameworks' packages for Redis pin an older RedisVL and can't be installed beside it. Their own retrievers stand
here over the least store that reads this index: redis-py's query, and the framework's own making of documents.
"""

from __future__ import annotations

import random
import time
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from benchmarks.entries import Measured
from benchmarks.servers import redis_url
from benchmarks.side_by_side import interleaved, repeat
from benchmarks.vectors import corpus
from benchmarks.vectors.area import AREA, p50s
from benchmarks.vectors.corpus import ASKER, RawSearch, documents, filled, place
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.context import scope
from tenant_middleware.isolation.vectors import Hit, Record
from tenant_middleware.langchain import TenantVectorStore
from tenant_middleware.llamaindex import TenantVectorStore as TenantNodeStore
from tenant_middleware.tenant import Tenant

TENANTS = [Tenant("acme", "gold"), Tenant("globex", "gold")]
K, DIMENSIONS, DOCUMENTS = 4, 8, 8


class OneVector(Embeddings):
    """Every text lies at the same place: the embedder's time is not ours."""

    def __init__(self, vector: list[float]) -> None:
        self.vector = vector

    def embed_query(self, text: str) -> list[float]:
        return self.vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector for _ in texts]


class Bare(BaseRetriever):
    """The least that LangChain's own machinery costs: a retriever that only makes documents of what was found."""

    found: list[Hit]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(page_content=hit.text, metadata=dict(hit.metadata), id=hit.id) for hit in self.found]


@AREA.entry("vectors.langchain_added_us", unit="us", better="lower", target=15)
def langchain_added_us() -> Measured:
    """TenantRetriever over the in-memory backend, less the backend's own query and a bare BaseRetriever.

    Those two take turns in one loop: alone in a loop of its own, each would find its code in the processor's cache.
    """
    dice = random.Random(7)
    place = [dice.uniform(-1, 1) for _ in range(DIMENSIONS)]
    vectors = InMemoryVectors()
    for tenant in TENANTS:
        vectors.upsert(
            tenant,
            [Record(f"r{n}", [dice.uniform(-1, 1) for _ in place], f"text {n}", {"page": n}) for n in range(DOCUMENTS)],
        )
    acme = TENANTS[0]
    retriever = TenantVectorStore(vectors=vectors, embedding=OneVector(place)).as_retriever(search_kwargs={"k": K})
    bare = Bare(found=vectors.query(acme, place, K))
    with scope(acme):
        timings = interleaved(
            {
                "ours": repeat(lambda: retriever.invoke("question")),
                "apart": repeat(lambda: (vectors.query(acme, place, K), bare.invoke("question"))),
            },
            loops=300,
            runs=31,
            clock=time.process_time,
        )
    beside = {f"{name} us": timings.us(name) for name in timings.seconds}
    return Measured(timings.added_us("ours", "apart"), beside)


class RawStore(VectorStore):
    """LangChain's least: search, and make documents."""

    def __init__(self, raw: RawSearch, embedding: Embeddings) -> None:
        self.raw, self.embedding = raw, embedding

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        found = self.raw(self.embedding.embed_query(query))
        return [Document(page_content=text, metadata=data, id=name) for name, text, data, _ in found]

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@AREA.entry("vectors.langchain_vs_framework", unit="x", better="lower", target=1.05)
def langchain_vs_framework() -> Measured:
    """p50 of TenantRetriever beside LangChain's VectorStoreRetriever, one Redis index, 10 tenants x 2,000."""
    vectors, embedding = filled(), OneVector(place(random.Random(9)))
    ours = TenantVectorStore(vectors=vectors, embedding=embedding).as_retriever(search_kwargs={"k": corpus.K})
    theirs = RawStore(RawSearch(), embedding).as_retriever(search_kwargs={"k": corpus.K})
    with scope(ASKER):
        assert [d.id for d in ours.invoke("q")] == [d.id for d in theirs.invoke("q")]
        return p50s(lambda: ours.invoke("q"), lambda: theirs.invoke("q"))


class RawNodeStore(BasePydanticVectorStore):
    """LlamaIndex's least: search, and make nodes of what its own helper wrote."""

    stores_text: bool = True
    raw: Any

    @property
    def client(self) -> Any:
        return None

    def add(self, nodes: Any, **kwargs: Any) -> list[str]:
        raise NotImplementedError

    def delete(self, ref_doc_id: str, **kwargs: Any) -> None:
        raise NotImplementedError

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        found = self.raw(query.query_embedding)
        nodes = [metadata_dict_to_node(data, text) for _, text, data, _ in found]
        scores, ids = [score for *_, score in found], [name for name, *_ in found]
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=ids)


@AREA.entry("vectors.llamaindex_vs_framework", unit="x", better="lower", target=1.05)
def llamaindex_vs_framework() -> Measured:
    """p50 of VectorIndexRetriever over our store, beside the same over the least store, one Redis server."""
    filled()
    ours, raw = (
        TenantNodeStore(RedisVectors(redis_url(), isolation="filter", name="nodes", ef_construction=16)),
        RawSearch("nodes-raw:all"),
    )
    theirs = RedisVectors(redis_url(), isolation="filter", name="nodes-raw", ef_construction=16)
    dice = random.Random(10)
    for tenant in corpus.TENANTS[5:9]:
        batch = documents(dice)
        nodes = [TextNode(id_=r.id, text=r.text, metadata=dict(r.metadata), embedding=list(r.vector)) for r in batch]
        with scope(tenant):
            ours.add(nodes)
        made = [(node, node_to_metadata_dict(node, remove_text=True)) for node in nodes]
        theirs.upsert(tenant, [Record(n.node_id, n.embedding or [], n.text, data) for n, data in made])
    embedding = MockEmbedding(embed_dim=len(place(dice)))
    retrievers = [
        VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=corpus.K)
        for store in (ours, RawNodeStore(raw=raw))
    ]
    with scope(ASKER):
        found = [sorted(hit.node.node_id for hit in each.retrieve("q")) for each in retrievers]
        assert found[0] == found[1], found
        return p50s(lambda: retrievers[0].retrieve("q"), lambda: retrievers[1].retrieve("q"))
