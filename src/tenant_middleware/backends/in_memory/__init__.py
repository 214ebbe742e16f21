"""Backends of one process: correct, light, and the reference that the shared ones are compared with."""

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache, InMemorySemanticCache, InMemoryVersions
from tenant_middleware.backends.in_memory.history import InMemoryHistory
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors

__all__ = ["InMemoryExactCache", "InMemoryHistory", "InMemorySemanticCache", "InMemoryVectors", "InMemoryVersions"]
