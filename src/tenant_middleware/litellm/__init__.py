"""LiteLLM: the gate as SDK and Router callback, and a Router that settles every ending."""

from __future__ import annotations

from tenant_middleware.litellm.callback import TenantCallback
from tenant_middleware.litellm.router import TenantRouter
from tenant_middleware.litellm.sealed import ResponseCacheSealer

__all__ = ["ResponseCacheSealer", "TenantCallback", "TenantRouter"]
