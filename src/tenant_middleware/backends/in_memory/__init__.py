"""Backends of one process: correct, light, and the reference that the shared ones are compared with."""

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache, InMemorySemanticCache, InMemoryVersions
from tenant_middleware.backends.in_memory.history import InMemoryHistory

__all__ = ["InMemoryExactCache", "InMemoryHistory", "InMemorySemanticCache", "InMemoryVersions"]
