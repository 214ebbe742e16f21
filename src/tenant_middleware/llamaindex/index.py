"""Indexes that tenants may share as objects: what LlamaIndex keeps in one is kept for each tenant apart.

LlamaIndex's own index holds hashes of documents, ids of nodes and live objects for all its users at once: a second
tenant's same document is never stored, and its answer says that somebody else has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, missing_extra
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.isolation.vectors import Vectors
from tenant_middleware.llamaindex.embeddings import TenantEmbedding
from tenant_middleware.llamaindex.engines import TenantMemory, TenantQueryEngine
from tenant_middleware.llamaindex.key_values import TenantKVStore
from tenant_middleware.llamaindex.model import TenantLLM
from tenant_middleware.llamaindex.structs import NodesInVectors, NodesOfTenants, NothingOfTenants
from tenant_middleware.llamaindex.vectors import TenantVectorStore
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.chat_engine.types import BaseChatEngine, ChatMode
    from llama_index.core.graph_stores import SimpleGraphStore
    from llama_index.core.indices.base import BaseIndex
    from llama_index.core.indices.list.base import SummaryIndex
    from llama_index.core.indices.vector_store import VectorStoreIndex
    from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
    from llama_index.core.llms.structured_llm import StructuredLLM
    from llama_index.core.llms.utils import resolve_llm
    from llama_index.core.memory import BaseMemory
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import TransformComponent
    from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
    from llama_index.core.storage.kvstore.types import BaseKVStore
    from llama_index.core.storage.storage_context import StorageContext
    from llama_index.core.vector_stores import SimpleVectorStore
    from llama_index.core.vector_stores.types import BasePydanticVectorStore
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error


class TenantObjects(MutableMapping[str, Any]):
    """The live objects behind IndexNodes: a mapping that is another one for each tenant, whoever made the retriever."""

    def __init__(self) -> None:
        self._of: dict[Tenant, dict[str, Any]] = {}
        RESIDENTS.register(self)

    def _mine(self) -> dict[str, Any]:
        return self._of.setdefault(current_tenant(), {})

    def __getitem__(self, index_id: str) -> Any:
        return self._mine()[index_id]

    def __setitem__(self, index_id: str, obj: Any) -> None:
        self._mine()[index_id] = obj

    def __delitem__(self, index_id: str) -> None:
        del self._mine()[index_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def __bool__(self) -> bool:
        """Retrievers take `object_map or {}`."""
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def leave(self, tenant: Tenant) -> int:
        """Drop the tenant's objects from this process."""
        mine = [owner for owner in self._of if owner.id == tenant.id]
        return sum(len(self._of.pop(owner)) for owner in mine)


class _Shared(BaseIndex[Any]):
    """What both indexes have: models through the gate alone, and live objects apart by tenant."""

    _default_llm: TenantLLM | None = None
    _objects: TenantObjects

    @property  # type: ignore[override]  # a mapping, as its readers need
    def _object_map(self) -> TenantObjects:
        return self._objects

    @_object_map.setter
    def _object_map(self, objects: object) -> None:
        """Called once, when the index is made: there is no tenant yet, and no object."""
        self._objects = TenantObjects()

    @property
    def summary(self) -> str:
        return ""

    @summary.setter
    def summary(self, new_summary: str) -> None:
        raise ConfigurationError("summary: one text for all tenants of this index; keep it where a tenant's data is")

    def as_query_engine(self, llm: Any = None, **kwargs: Any) -> BaseQueryEngine:
        gated = resolve_llm(self._gated(llm), callback_manager=self._callback_manager)
        return TenantQueryEngine.from_args(self.as_retriever(**kwargs), llm=gated, **kwargs)

    def as_chat_engine(
        self, chat_mode: Any = ChatMode.BEST, llm: Any = None, *, memory: BaseMemory | None = None, **kwargs: Any
    ) -> BaseChatEngine:
        """A chat of the tenant and subject in whose scope it is made; in another scope it raises TenantMismatch."""
        gated = self._gated(llm)
        if memory is None:
            room = gated.metadata.context_window - 256  # as LlamaIndex's engines make theirs
            memory = TenantMemory.from_defaults(chat_history=kwargs.pop("chat_history", None), token_limit=room)
        elif not isinstance(memory, TenantMemory):
            memory = TenantMemory(memory)
        return super().as_chat_engine(chat_mode, gated, memory=memory, **kwargs)

    def _gated(self, llm: Any) -> Any:
        """LlamaIndex would take Settings.llm, whose calls nobody admits or books."""
        chosen = llm if llm is not None else self._default_llm
        inner = chosen.llm if isinstance(chosen, StructuredLLM) else chosen
        if not isinstance(inner, TenantLLM):
            got = "none" if inner is None else type(inner).__name__
            raise ConfigurationError(f"llm: expected a TenantLLM, whose calls go through the gate, got {got}")
        return chosen


class TenantIndex(_Shared, VectorStoreIndex):
    """A VectorStoreIndex that all tenants share as an object and none as a store; `tenant_index` makes one."""

    index_struct_cls = NodesInVectors

    def as_retriever(self, embed_model: Any = None, **kwargs: Any) -> BaseRetriever:
        """A retriever over this tenant's nodes; keywords that LlamaIndex swallows narrow and widen nothing."""
        if embed_model is not None:
            _check_embedding(embed_model)
        return VectorIndexRetriever(
            self,
            embed_model=embed_model,
            callback_manager=self._callback_manager,
            object_map=self._object_map,  # type: ignore[arg-type]  # it is read as a mapping
            **kwargs,
        )


class TenantSummaryIndex(_Shared, SummaryIndex):
    """A SummaryIndex whose nodes are the tenant's in context; `tenant_summary_index` makes one."""

    index_struct_cls = NodesOfTenants
    _embed_model: TenantEmbedding | None = None

    def as_retriever(
        self, retriever_mode: Any = "default", llm: Any = None, embed_model: Any = None, **kwargs: Any
    ) -> BaseRetriever:
        if retriever_mode == "embedding":
            embed_model = _check_embedding(embed_model or self._embed_model)
        if retriever_mode == "llm":
            llm = self._gated(llm)
        return super().as_retriever(retriever_mode, llm=llm, embed_model=embed_model, **kwargs)


def tenant_index(
    *,
    vectors: Vectors | TenantVectorStore,
    embed_model: TenantEmbedding,
    llm: TenantLLM | None = None,
    kvstore: BaseKVStore | TenantKVStore | None = None,
    transformations: Iterable[TransformComponent] | None = None,
) -> TenantIndex:
    """A VectorStoreIndex whose documents, nodes, hashes and objects are the tenant's in context.

    Make it once, outside any scope. `kvstore` keeps what is known of documents (`refresh_ref_docs` compares with it):
    in this process when left out, or in any BaseKVStore that workers share. `llm` is for query and chat engines.
    """
    _check_embedding(embed_model)
    store = vectors if isinstance(vectors, TenantVectorStore) else TenantVectorStore(vectors=vectors)
    index = TenantIndex(
        index_struct=NodesInVectors(),
        embed_model=embed_model,
        storage_context=_storage(_scoped(kvstore), store),
        callback_manager=CallbackManager(),  # not the one in Settings, which would hear every tenant
        transformations=list(transformations) if transformations is not None else [SentenceSplitter()],
    )
    index._default_llm = llm
    return index


def tenant_summary_index(
    *,
    llm: TenantLLM | None = None,
    embed_model: TenantEmbedding | None = None,
    kvstore: BaseKVStore | TenantKVStore | None = None,
    transformations: Iterable[TransformComponent] | None = None,
) -> TenantSummaryIndex:
    """A SummaryIndex over the nodes of the tenant in context, which lie in `kvstore`."""
    if embed_model is not None:
        _check_embedding(embed_model)
    kept = _scoped(kvstore)
    index = TenantSummaryIndex(
        index_struct=NodesOfTenants.over(kept),
        storage_context=_storage(kept, SimpleVectorStore()),
        callback_manager=CallbackManager(),
        transformations=list(transformations) if transformations is not None else [SentenceSplitter()],
    )
    index._default_llm, index._embed_model = llm, embed_model
    return index


def _scoped(kvstore: BaseKVStore | None) -> TenantKVStore:
    return kvstore if isinstance(kvstore, TenantKVStore) else TenantKVStore(kvstore)


def _storage(kept: TenantKVStore, store: BasePydanticVectorStore) -> StorageContext:
    """Every part of it given: the defaults would hold all tenants' together."""
    return StorageContext(
        docstore=KVDocumentStore(kept),
        index_store=NothingOfTenants(),
        vector_stores={"default": store},
        graph_store=SimpleGraphStore(),
    )


def _check_embedding(embed_model: Any) -> TenantEmbedding:
    if not isinstance(embed_model, TenantEmbedding):
        got = type(embed_model).__name__
        raise ConfigurationError(f"embed_model: expected a TenantEmbedding, whose calls go through the gate, got {got}")
    return embed_model
