"""The adapter for LlamaIndex: models, indexes, retrieval, memory and workflow state for the tenant in context alone."""

from __future__ import annotations

from tenant_middleware.llamaindex.embeddings import TenantEmbedding
from tenant_middleware.llamaindex.key_values import TenantKVStore
from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.llamaindex.model import TenantLLM
from tenant_middleware.llamaindex.retriever import TenantRetriever
from tenant_middleware.llamaindex.state import dump_context, load_context
from tenant_middleware.llamaindex.vectors import TenantVectorStore

__all__ = [
    "TenantChatStore",
    "TenantEmbedding",
    "TenantKVStore",
    "TenantLLM",
    "TenantRetriever",
    "TenantVectorStore",
    "dump_context",
    "load_context",
]
