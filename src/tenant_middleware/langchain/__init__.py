"""LangChain and LangGraph: model, guard, retrieval, memory and caches that run for the tenant in context alone."""

from __future__ import annotations

from tenant_middleware.langchain.agent import RunCaps, TenantAgentMiddleware
from tenant_middleware.langchain.answers import Fence, GuardOutput
from tenant_middleware.langchain.cache import TenantCache
from tenant_middleware.langchain.documents import stamp, verify_tenant
from tenant_middleware.langchain.embeddings import TenantEmbeddings
from tenant_middleware.langchain.guard import GuardInput
from tenant_middleware.langchain.history import TenantChatHistory
from tenant_middleware.langchain.indexing import TenantRecordManager
from tenant_middleware.langchain.ingest import Ingested, aingest, ingest
from tenant_middleware.langchain.key_values import TenantKeyValueStore
from tenant_middleware.langchain.memory import TenantCheckpointSaver
from tenant_middleware.langchain.model import TenantChatModel
from tenant_middleware.langchain.retriever import TenantRetriever
from tenant_middleware.langchain.sealed import LlmCacheSealer, NodeCacheSealer
from tenant_middleware.langchain.semantic import cached
from tenant_middleware.langchain.store import TenantStore
from tenant_middleware.langchain.tools import TenantTool, tenant_tool
from tenant_middleware.langchain.vectors import TenantVectorStore

__all__ = [
    "Fence",
    "GuardInput",
    "GuardOutput",
    "Ingested",
    "LlmCacheSealer",
    "NodeCacheSealer",
    "RunCaps",
    "TenantAgentMiddleware",
    "TenantCache",
    "TenantChatHistory",
    "TenantChatModel",
    "TenantCheckpointSaver",
    "TenantEmbeddings",
    "TenantKeyValueStore",
    "TenantRecordManager",
    "TenantRetriever",
    "TenantStore",
    "TenantTool",
    "TenantVectorStore",
    "aingest",
    "cached",
    "ingest",
    "stamp",
    "tenant_tool",
    "verify_tenant",
]
