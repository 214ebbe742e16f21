"""The adapter for LlamaIndex: models, indexes, retrieval, memory and workflow state for the tenant in context alone."""

from __future__ import annotations

from tenant_middleware.isolation import seal
from tenant_middleware.llamaindex.embeddings import TenantEmbedding
from tenant_middleware.llamaindex.engines import TenantMemory
from tenant_middleware.llamaindex.guard import Checked, GuardedQueryEngine, GuardedWorkflow, aguard_input, guard_input
from tenant_middleware.llamaindex.index import TenantIndex, TenantSummaryIndex, tenant_index, tenant_summary_index
from tenant_middleware.llamaindex.instrumentation import observe_llamaindex, tenant_tags
from tenant_middleware.llamaindex.key_values import TenantKVStore
from tenant_middleware.llamaindex.memory import TenantChatStore
from tenant_middleware.llamaindex.model import TenantLLM
from tenant_middleware.llamaindex.postprocessor import TenantPostprocessor
from tenant_middleware.llamaindex.retriever import TenantRetriever
from tenant_middleware.llamaindex.sealed import LlamaIndexSealer
from tenant_middleware.llamaindex.state import dump_context, load_context
from tenant_middleware.llamaindex.tools import (
    StopsOnRefusal,
    TenantAgentWorkflow,
    TenantFunctionAgent,
    TenantReActAgent,
    TenantTool,
    tenant_tool,
)
from tenant_middleware.llamaindex.vectors import TenantVectorStore

seal.register(LlamaIndexSealer())

__all__ = [
    "Checked",
    "GuardedQueryEngine",
    "GuardedWorkflow",
    "LlamaIndexSealer",
    "StopsOnRefusal",
    "TenantAgentWorkflow",
    "TenantChatStore",
    "TenantEmbedding",
    "TenantFunctionAgent",
    "TenantIndex",
    "TenantKVStore",
    "TenantLLM",
    "TenantMemory",
    "TenantPostprocessor",
    "TenantReActAgent",
    "TenantRetriever",
    "TenantSummaryIndex",
    "TenantTool",
    "TenantVectorStore",
    "aguard_input",
    "dump_context",
    "guard_input",
    "load_context",
    "observe_llamaindex",
    "tenant_index",
    "tenant_summary_index",
    "tenant_tags",
    "tenant_tool",
]
