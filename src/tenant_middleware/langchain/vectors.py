"""A LangChain vector store that holds and finds the documents of the tenant in context, and no others.

The tenant is read when a method is called, before its first step. What a caller passes can narrow a search and never
widen it; keywords that other stores would ignore are errors here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self
from uuid import uuid4

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.flow import Flow, Op, arun, run
from tenant_middleware.isolation.options import refuse_unknown
from tenant_middleware.isolation.place import check_k
from tenant_middleware.isolation.vectors import Hit, Vectors
from tenant_middleware.langchain import documents as docs
from tenant_middleware.langchain.documents import document
from tenant_middleware.langchain.pinned import called_now
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.retriever import SEARCH_OPTIONS, TenantRetriever
from tenant_middleware.langchain.search import Search, find, relevance

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

Scored = list[tuple[Document, float]]
Later = Coroutine[Any, Any, Any]


class TenantVectorStore(VectorStore):
    """LangChain's whole vector store surface over any `Vectors`, for the tenant in context alone.

    `filter` is a mapping in the neutral language, such as `{"year": {"$gte": 2024}}`. A higher score is nearer. Raises
    MissingTenant without a tenant, InvalidInput for unknown keywords, IsolationBreach for a foreign record.
    """

    def __init__(
        self, *, vectors: Vectors, embedding: Embeddings, new_id: Callable[[], str] = lambda: uuid4().hex
    ) -> None:
        if not isinstance(embedding, Embeddings):
            raise ConfigurationError(f"embedding: expected LangChain Embeddings, got {type(embedding).__name__}")
        self.vectors = vectors
        self.embedding = embedding
        self._new_id = new_id

    @property
    def embeddings(self) -> Embeddings:
        return self.embedding

    # Writing.

    @passing
    def add_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        return run(self._add(documents, kwargs))

    @passing
    def aadd_documents(self, documents: Iterable[Document], **kwargs: Any) -> Later:
        return called_now(arun, self._add(documents, kwargs))

    @passing
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        return run(self._add(docs.from_texts(texts, metadatas), {**kwargs, "ids": ids}))

    @passing
    def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Later:
        return called_now(arun, self._add(docs.from_texts(texts, metadatas), {**kwargs, "ids": ids}))

    def _add(self, documents: Iterable[Document], options: Mapping[str, Any]) -> Flow[list[str]]:
        """Checks at once, before the first step of the flow."""
        tenant = current_tenant()
        refuse_unknown("add_documents", options, ("ids", "batch_size"))
        size = check_k(options.get("batch_size") or 256, "batch_size")
        pairs = docs.prepared(documents, options.get("ids"), self._new_id)

        def flow() -> Flow[list[str]]:
            for start in range(0, len(pairs), size):
                batch = pairs[start : start + size]
                embedded = yield Op(self.embedding, "embed_documents", ([doc.page_content for _, doc in batch],), False)
                yield Op(self.vectors, "upsert", (tenant, docs.records(batch, embedded)), False)
            return [doc_id for doc_id, _ in pairs]

        return flow()

    @passing
    def delete(self, ids: Sequence[str] | None = None, **kwargs: Any) -> bool:
        """Delete by id; without ids it raises, where other stores would delete everything."""
        return run(self._delete(ids, kwargs))

    @passing
    def adelete(self, ids: Sequence[str] | None = None, **kwargs: Any) -> Later:
        return called_now(arun, self._delete(ids, kwargs))

    def _delete(self, ids: Sequence[str] | None, options: Mapping[str, Any]) -> Flow[bool]:
        tenant = current_tenant()
        refuse_unknown("delete", options, ())
        if ids is None:
            raise InvalidInput(
                "delete: expected ids; vectors.delete(tenant, where=...) takes a condition and vectors.erase(tenant) "
                "removes everything"
            )

        def flow() -> Flow[bool]:
            yield Op(self.vectors, "delete", (tenant, ids), False)
            return True

        return flow()

    # Reading.

    @passing
    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return [document(record) for record in self.vectors.fetch(current_tenant(), ids)]

    @passing
    def aget_by_ids(self, ids: Sequence[str], /) -> Later:
        tenant = current_tenant()

        async def fetched() -> list[Document]:
            return [document(record) for record in await self.vectors.afetch(tenant, ids)]

        return called_now(fetched)

    def hits(self, asked: str | Sequence[float], search: Search) -> Flow[list[Hit]]:
        """The flow of one search for the tenant in context now."""
        return find(self.vectors, self.embedding, current_tenant(), asked, search)

    @passing
    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return _plain(run(self.hits(query, _search(k, kwargs))))

    @passing
    def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> Later:
        return _later(_plain, self.hits(query, _search(k, kwargs)))

    @passing
    def similarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **kwargs: Any) -> list[Document]:
        return _plain(run(self.hits(embedding, _search(k, kwargs))))

    @passing
    def asimilarity_search_by_vector(self, embedding: Sequence[float], k: int = 4, **kwargs: Any) -> Later:
        return _later(_plain, self.hits(embedding, _search(k, kwargs)))

    @passing
    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        return _scored(run(self.hits(query, _search(k, kwargs))))

    @passing
    def asimilarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> Later:
        return _later(_scored, self.hits(query, _search(k, kwargs)))

    @passing
    def similarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Scored:
        return _relevant(run(self.hits(query, _search(k, kwargs, "score_threshold"))))

    @passing
    def asimilarity_search_with_relevance_scores(self, query: str, k: int = 4, **kwargs: Any) -> Later:
        return _later(_relevant, self.hits(query, _search(k, kwargs, "score_threshold")))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return relevance

    @passing
    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        return _plain(run(self.hits(query, _mmr(k, fetch_k, lambda_mult, kwargs))))

    @passing
    def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> Later:
        return _later(_plain, self.hits(query, _mmr(k, fetch_k, lambda_mult, kwargs)))

    @passing
    def max_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        return _plain(run(self.hits(embedding, _mmr(k, fetch_k, lambda_mult, kwargs))))

    @passing
    def amax_marginal_relevance_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> Later:
        return _later(_plain, self.hits(embedding, _mmr(k, fetch_k, lambda_mult, kwargs)))

    @passing
    def asearch(self, query: str, search_type: str, **kwargs: Any) -> Later:
        return called_now(super().asearch, query, search_type, **kwargs)

    # Making.

    def as_retriever(self, **kwargs: Any) -> TenantRetriever:  # type: ignore[override]  # VectorStoreRetriever lets a caller's filter win
        """A TenantRetriever over this store; `search_kwargs` as elsewhere, except that an unknown one is an error."""
        options = {**dict(kwargs.pop("search_kwargs", None) or {})}
        doubled = sorted(options.keys() & kwargs.keys())
        if doubled:
            raise InvalidInput(f"as_retriever: {', '.join(doubled)} given twice")
        refuse_unknown("search_kwargs", options, SEARCH_OPTIONS)
        return TenantRetriever(store=self, **options, **kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: Vectors | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store over `vectors` with these texts in it, for the tenant in context."""
        store = cls._empty(embedding, vectors, kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        vectors: Vectors | None = None,
        **kwargs: Any,
    ) -> Later:
        """`from_texts`, by awaiting."""
        store = cls._empty(embedding, vectors, kwargs)
        adding = store.aadd_texts(texts, metadatas, ids=ids)

        async def filled() -> TenantVectorStore:
            await adding
            return store

        return filled()

    @classmethod
    def _empty(cls, embedding: Embeddings, vectors: Vectors | None, options: Mapping[str, Any]) -> Self:
        if vectors is None:
            raise ConfigurationError("TenantVectorStore: give it the backend, vectors=tenancy.vectors")
        refuse_unknown("from_texts", options, ())
        return cls(vectors=vectors, embedding=embedding)


def _search(k: int, options: Mapping[str, Any], *more: str) -> Search:
    refuse_unknown("search", options, ("filter", *more))
    return Search(k=k, **options)


def _mmr(k: int, fetch_k: int, lambda_mult: float, options: Mapping[str, Any]) -> Search:
    refuse_unknown("search", options, ("filter",))
    return Search(k=k, search_type="mmr", fetch_k=fetch_k, lambda_mult=lambda_mult, **options)


def _plain(hits: list[Hit]) -> list[Document]:
    return [document(hit) for hit in hits]


def _scored(hits: list[Hit]) -> Scored:
    return [(document(hit), hit.score) for hit in hits]


def _relevant(hits: list[Hit]) -> Scored:
    return [(document(hit), relevance(hit.score)) for hit in hits]


def _later(shown: Callable[[list[Hit]], Any], flow: Flow[list[Hit]]) -> Later:
    async def found() -> Any:
        return shown(await arun(flow))

    return called_now(found)
