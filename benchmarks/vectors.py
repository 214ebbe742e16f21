"""What our retrieval costs over the bare operation."""

from __future__ import annotations

import random
import time

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever

from benchmarks.entries import Area, Measured
from benchmarks.side_by_side import interleaved, repeat
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.context import scope
from tenant_middleware.isolation.vectors import Hit, Record
from tenant_middleware.langchain import TenantVectorStore
from tenant_middleware.tenant import Tenant

AREA = Area("vectors", required=["vectors.langchain_added_us"])

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
