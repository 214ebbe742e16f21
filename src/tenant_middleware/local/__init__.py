"""Real parts without a server or a key, for demos, tests and notebooks: a chat model, embeddings, Redis, Postgres.

Importing this loads nothing; each name loads what it needs when it is first used (extra `local`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenant_middleware.local.embedding import embeddings
    from tenant_middleware.local.llamaindex import llama_embedding, llama_llm
    from tenant_middleware.local.models import chat_model, echo_chat_model, scripted_tool_model
    from tenant_middleware.local.servers import local_postgres, local_redis, local_redis_cluster

__all__ = [
    "chat_model",
    "echo_chat_model",
    "embeddings",
    "llama_embedding",
    "llama_llm",
    "local_postgres",
    "local_redis",
    "local_redis_cluster",
    "scripted_tool_model",
]

_MODULES = {
    "chat_model": "models",
    "echo_chat_model": "models",
    "scripted_tool_model": "models",
    "embeddings": "embedding",
    "llama_embedding": "llamaindex",
    "llama_llm": "llamaindex",
    "local_postgres": "servers",
    "local_redis": "servers",
    "local_redis_cluster": "servers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
