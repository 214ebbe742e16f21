"""LlamaIndex: store, retriever, memory and workflow state that work for the tenant in context alone."""

from __future__ import annotations

from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.llamaindex.retriever import TenantRetriever
from tenant_middleware.llamaindex.state import dump_context, load_context
from tenant_middleware.llamaindex.vectors import TenantVectorStore

__all__ = ["TenantChatStore", "TenantRetriever", "TenantVectorStore", "dump_context", "load_context"]
