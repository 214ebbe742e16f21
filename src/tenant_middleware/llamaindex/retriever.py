"""A LlamaIndex retriever for the tenant in context, whose options are checked when it is made."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Literal

from tenant_middleware.context import bind, current_tenant
from tenant_middleware.errors import ConfigurationError, missing_extra
from tenant_middleware.isolation.place import check_ids
from tenant_middleware.llamaindex.search import search_of
from tenant_middleware.llamaindex.vectors import TenantVectorStore

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
    from llama_index.core.vector_stores.types import (
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryResult,
    )
    from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error


class TenantRetriever(BaseRetriever):
    """Finds nodes of the tenant in context: by nearness, filters, documents, nodes, or MMR.

    It has no object map: an `IndexNode` is returned as it is, never followed to an object that tenants share.
    """

    def __init__(
        self,
        *,
        store: TenantVectorStore,
        embed_model: BaseEmbedding,
        similarity_top_k: int = 2,
        filters: MetadataFilters | None = None,
        doc_ids: Sequence[str] | None = None,
        node_ids: Sequence[str] | None = None,
        mode: Literal["default", "mmr"] = "default",
        mmr_threshold: float | None = None,
        mmr_prefetch_k: int | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        for name, given, kind in (("store", store, TenantVectorStore), ("embed_model", embed_model, BaseEmbedding)):
            if not isinstance(given, kind):
                raise ConfigurationError(f"{name}: expected a {kind.__name__}, got {type(given).__name__}")
        self._store, self._embed_model = store, embed_model
        self._options = {} if mmr_prefetch_k is None else {"mmr_prefetch_k": mmr_prefetch_k}
        self._bound = VectorStoreQuery(
            similarity_top_k=similarity_top_k,
            filters=filters,
            doc_ids=None if doc_ids is None else check_ids(doc_ids),
            node_ids=None if node_ids is None else check_ids(node_ids),
            mode=mode,  # type: ignore[arg-type]  # checked below, with an error of ours
            mmr_threshold=mmr_threshold,
        )
        search_of(self._query(QueryBundle("", embedding=[1.0])), self._options)  # a wrong option is an error now
        super().__init__(callback_manager=callback_manager)

    def _query(self, asked: QueryBundle) -> VectorStoreQuery:
        return replace(self._bound, query_embedding=asked.embedding, query_str=asked.query_str)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        current_tenant()  # before the question is embedded
        if query_bundle.embedding is None:
            embedding = self._embed_model.get_agg_embedding_from_queries(query_bundle.embedding_strs)
            query_bundle = QueryBundle(query_bundle.query_str, embedding=embedding)
        return _scored(self._store.query(self._query(query_bundle), **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        current_tenant()
        if query_bundle.embedding is None:
            embedding = await self._embed_model.aget_agg_embedding_from_queries(query_bundle.embedding_strs)
            query_bundle = QueryBundle(query_bundle.query_str, embedding=embedding)
        return _scored(await self._store.aquery(self._query(query_bundle), **self._options))

    def aretrieve(self, str_or_query_bundle: QueryType) -> Coroutine[Any, Any, list[NodeWithScore]]:
        """Tied to the tenant in context now, not when it is awaited."""
        return bind(super().aretrieve)(str_or_query_bundle)

    setattr(aretrieve, DISPATCHER_SPAN_DECORATED_ATTR, True)  # the base's own opens the span


def _scored(found: VectorStoreQueryResult) -> list[NodeWithScore]:
    scores = found.similarities or []
    return [NodeWithScore(node=node, score=score) for node, score in zip(found.nodes or [], scores, strict=True)]
