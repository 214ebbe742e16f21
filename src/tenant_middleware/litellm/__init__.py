"""LiteLLM: the gate as SDK and Router callback, a Router that settles every ending, and the proxy's plugin.

`TenantCallback` and `TenantRouter` are for code. `callback` and `custom_auth` are what a proxy's config.yaml names;
they are built from the policy file in TENANCY_FILE when they are first asked for, and need the extra `proxy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tenant_middleware.litellm.hooks import TenantCallback
from tenant_middleware.litellm.router import TenantRouter
from tenant_middleware.litellm.sealed import ResponseCacheSealer

__all__ = ["ResponseCacheSealer", "TenantCallback", "TenantRouter", "callback", "custom_auth"]

if TYPE_CHECKING:
    from tenant_middleware.litellm.plugin import callback, custom_auth


def __getattr__(name: str) -> Any:
    if name in ("callback", "custom_auth"):
        from tenant_middleware.litellm import plugin

        return getattr(plugin, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
