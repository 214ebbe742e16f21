"""A LlamaIndex vector store that holds and finds the nodes of the tenant in context, and no others.

The tenant is read when a method is called, before its first step. Filters, node ids and document ids narrow a search
within the tenant; keywords, modes and options that this store doesn't have are errors.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NoReturn

from tenant_middleware.context import bind, current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, missing_extra
from tenant_middleware.flow import Flow, Op, arun, run
from tenant_middleware.isolation.diversity import diverse_hits
from tenant_middleware.isolation.options import refuse_unknown
from tenant_middleware.isolation.place import MAX_K, check_id, check_ids, check_vector
from tenant_middleware.isolation.vectors import Hit, Record, Vectors
from tenant_middleware.llamaindex.filters import Condition
from tenant_middleware.llamaindex.nodes import node_of, record_of
from tenant_middleware.llamaindex.search import Search, search_of, selected
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryResult,
    )
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

Later = Coroutine[Any, Any, Any]
FIRST_LOOK, WIDER = 64, 8


class TenantVectorStore(BasePydanticVectorStore):
    """LlamaIndex's vector store over any `Vectors`, for the tenant in context alone.

    `TenantVectorStore(vectors=tenancy.vectors)`; `tenant_index` puts an index on top. Raises MissingTenant without a
    tenant, InvalidInput for what this store doesn't do, IsolationBreach for a foreign record.
    """

    stores_text: bool = True
    is_embedding_query: bool = True

    _vectors: Vectors = PrivateAttr()

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(stores_text=True)
        self._vectors = vectors

    @classmethod
    def class_name(cls) -> str:
        return "TenantVectorStore"

    @property
    def vectors(self) -> Vectors:
        """The backend, whose every method takes a Tenant."""
        return self._vectors

    @property
    def client(self) -> NoReturn:
        raise ConfigurationError(
            "client: a raw client reaches every tenant; use this store's methods, or store.vectors with a Tenant"
        )

    def __getstate__(self) -> NoReturn:
        raise ConfigurationError(
            "a TenantVectorStore can't be pickled or sent to another process: make it there, from a Tenancy of its own"
        )

    # Writing.

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return run(self._add(nodes, kwargs))

    def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Later:
        return bind(arun)(self._add(nodes, kwargs))

    def _add(self, nodes: Sequence[BaseNode], options: Mapping[str, Any]) -> Flow[list[str]]:
        """Checks at once, before the first step of the flow, as every method here does."""
        tenant = current_tenant()
        refuse_unknown("add", options, ())
        records = [record_of(node) for node in nodes]

        def flow() -> Flow[list[str]]:
            if records:
                yield Op(self._vectors, "upsert", (tenant, records), False)
            return [record.id for record in records]

        return flow()

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of exactly this document."""
        run(self._delete(ref_doc_id, delete_kwargs))

    def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> Later:
        return bind(arun)(self._delete(ref_doc_id, delete_kwargs))

    def _delete(self, ref_doc_id: str, options: Mapping[str, Any]) -> Flow[None]:
        refuse_unknown("delete", options, ())
        return self._remove(current_tenant(), None, selected(None, None, [check_id(ref_doc_id)]))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete by ids, by filters, or what meets both; without either it raises, where others delete everything."""
        run(self._delete_nodes(node_ids, filters, delete_kwargs))

    def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> Later:
        return bind(arun)(self._delete_nodes(node_ids, filters, delete_kwargs))

    def _delete_nodes(
        self, node_ids: list[str] | None, filters: MetadataFilters | None, options: Mapping[str, Any]
    ) -> Flow[None]:
        tenant = current_tenant()
        refuse_unknown("delete_nodes", options, ())
        ids = None if node_ids is None else check_ids(node_ids)
        if filters is None or not filters.filters:
            if ids is None:
                raise InvalidInput("delete_nodes: expected node_ids or filters; clear() removes everything")
            return self._remove(tenant, ids, None)
        return self._remove(tenant, ids, selected(filters, ids or None))

    def _remove(self, tenant: Tenant, ids: list[str] | None, which: Condition | None) -> Flow[None]:
        if ids == []:
            return
        if which is None:
            yield Op(self._vectors, "delete", (tenant, ids), False)
        elif which.exact:
            yield Op(self._vectors, "delete", (tenant,), False, {"where": which.where})
        elif found := (yield from self._records(tenant, which)):
            yield Op(self._vectors, "delete", (tenant, [record.id for record in found]), False)

    def clear(self) -> None:
        """Erase everything of the tenant in this backend, whatever put it there."""
        self._vectors.erase(current_tenant())

    def aclear(self) -> Later:
        tenant = current_tenant()

        async def cleared() -> None:
            await self._vectors.aerase(tenant)

        return bind(cleared)()

    # Reading.

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id, by filters or both, with their embeddings; without either all of the tenant's."""
        return run(self._get_nodes(node_ids, filters))

    def aget_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> Later:
        return bind(arun)(self._get_nodes(node_ids, filters))

    def _get_nodes(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> Flow[list[BaseNode]]:
        tenant = current_tenant()
        ids = None if node_ids is None else check_ids(node_ids)
        which = selected(filters, None)

        def flow() -> Flow[list[BaseNode]]:
            if ids is None:
                found = yield from self._records(tenant, which)
            else:
                found = yield Op(self._vectors, "fetch", (tenant, ids), False)
            return [node_of(record) for record in found if which.test(record.metadata)]

        return flow()

    def _records(self, tenant: Tenant, which: Condition) -> Flow[list[Record]]:
        found: list[Record] = yield Op(self._vectors, "fetch", (tenant,), False, {"where": which.where})
        return [record for record in found if which.test(record.metadata)]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return run(self._query(current_tenant(), search_of(query, kwargs)))

    def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> Later:
        return bind(arun)(self._query(current_tenant(), search_of(query, kwargs)))

    def _query(self, tenant: Tenant, search: Search) -> Flow[VectorStoreQueryResult]:
        hits: list[Hit] = []
        if not search.nothing and search.wide is None:
            hits = yield from self._nearest(tenant, search, search.k)
        elif not search.nothing:
            hits = yield from self._diverse(tenant, search, search.wide or search.k)
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits], similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
        )

    def _nearest(self, tenant: Tenant, search: Search, k: int) -> Flow[list[Hit]]:
        """The k nearest that meet the condition; where the store can't check all of it, by looking ever wider."""
        which = search.condition
        wide = k if which.exact else min(MAX_K, max(FIRST_LOOK, k))
        while True:
            hits: list[Hit] = yield Op(self._vectors, "query", (tenant, search.vector, wide, which.where), False)
            if which.exact:
                return hits
            fit = [hit for hit in hits if which.test(hit.metadata)]
            if len(fit) >= k or len(hits) < wide:
                return fit[:k]
            if wide == MAX_K:
                raise InvalidInput(
                    f"query: a text match is tested on the nearest {MAX_K} nodes, and fewer than {k} of them meet it; "
                    "add a filter that the store can check"
                )
            wide = min(MAX_K, wide * WIDER)

    def _diverse(self, tenant: Tenant, search: Search, wide: int) -> Flow[list[Hit]]:
        hits = yield from self._nearest(tenant, search, wide)
        if not hits:
            return []
        found: list[Record] = yield Op(self._vectors, "fetch", (tenant, [hit.id for hit in hits]), False)
        return diverse_hits(check_vector(search.vector), hits, found, search.k, search.balance)
