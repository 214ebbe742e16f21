"""A LangChain retriever for the tenant in context, whose bound filter no caller can drop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import missing_extra
from tenant_middleware.flow import Flow, arun, run
from tenant_middleware.isolation.filters import both
from tenant_middleware.isolation.options import refuse_unknown
from tenant_middleware.isolation.vectors import Hit
from tenant_middleware.langchain.documents import document, stamped_document
from tenant_middleware.langchain.pinned import PinnedRunnable
from tenant_middleware.langchain.refusals import passing
from tenant_middleware.langchain.search import Search, SearchType

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import RunnableConfig
except ImportError as error:
    raise missing_extra("langchain", __name__) from error

if TYPE_CHECKING:
    from tenant_middleware.langchain.vectors import TenantVectorStore

SEARCH_OPTIONS = ("k", "filter", "score_threshold", "fetch_k", "lambda_mult")


class TenantRetriever(PinnedRunnable, BaseRetriever):
    """Finds documents of the tenant in context; `store.as_retriever(search_kwargs=...)` makes one too.

    Options given to `invoke` replace the bound ones, except `filter`, under which both must hold. With `stamped=True`
    the documents carry their tenant's stamp for `verify_tenant`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    store: Any = Field(exclude=True, repr=False)
    search_type: SearchType = "similarity"
    k: int = 4
    filter: Any = None  # a mapping; checked by Search, whose error says more than pydantic's
    score_threshold: float | None = None
    fetch_k: int = 20
    lambda_mult: float = 0.5
    stamped: bool = False

    def __init__(self, **options: Any) -> None:
        refuse_unknown("TenantRetriever", options, type(self).model_fields)
        super().__init__(**options)
        self._search({})  # a wrong option is an error now, not at the first question

    @passing
    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        current_tenant()
        return super().invoke(input, config, **kwargs)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._shown(run(self._hits(query, kwargs)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self._shown(await arun(self._hits(query, kwargs)))

    def _hits(self, query: str, options: dict[str, Any]) -> Flow[list[Hit]]:
        store: TenantVectorStore = self.store
        return store.hits(query, self._search(options))

    def _search(self, options: Mapping[str, Any]) -> Search:
        if not options:
            return Search(self.k, self.filter, self.search_type, self.score_threshold, self.fetch_k, self.lambda_mult)
        refuse_unknown("invoke", options, SEARCH_OPTIONS)
        bound = {name: options.get(name, getattr(self, name)) for name in SEARCH_OPTIONS}
        bound["filter"] = both(self.filter, options.get("filter"))
        return Search(search_type=self.search_type, **bound)

    def _shown(self, hits: list[Hit]) -> list[Document]:
        if not self.stamped:
            return [document(hit) for hit in hits]
        tenant = current_tenant()
        return [stamped_document(tenant, hit) for hit in hits]
