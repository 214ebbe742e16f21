"""`callback` and `custom_auth` for a proxy's config.yaml, built from TENANCY_FILE once per process."""

from __future__ import annotations

import os
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any

from tenant_middleware.errors import SettingsError

if TYPE_CHECKING:
    from tenant_middleware.litellm.auth import Door
    from tenant_middleware.litellm.hooks import TenantCallback
    from tenant_middleware.tenancy import Tenancy

    callback: TenantCallback
    custom_auth: Door

FILE = "TENANCY_FILE"


@lru_cache(maxsize=1)
def _tenancy() -> Tenancy:
    from tenant_middleware.tenancy import Tenancy

    path = os.environ.get(FILE)
    if not path:
        raise SettingsError(f"{FILE}: expected the path of the policy file that this proxy enforces, got none")
    return Tenancy.from_file(path)


@lru_cache(maxsize=1)
def _callback() -> TenantCallback:
    from tenant_middleware.litellm.hooks import TenantCallback

    return TenantCallback(_tenancy(), health_checks=True)


@lru_cache(maxsize=1)
def _custom_auth() -> Door:
    from tenant_middleware.litellm.auth import Door
    from tenant_middleware.litellm.wall import build_wall

    tenancy = _tenancy()
    _ = tenancy.identity  # a policy without [identity] stops the proxy now, not at the first request
    from litellm.proxy import proxy_server

    build_wall(proxy_server.app)
    _close_at_shutdown(proxy_server, tenancy)
    return Door(tenancy)


def _close_at_shutdown(proxy_server: Any, tenancy: Tenancy) -> None:
    """Bring what is settled into the ledger before the worker ends.

    The application's lifespan has begun when plugins are loaded, and uvicorn ends a worker by raising its signal once
    more, so that nothing runs at exit: the proxy's own last step is the one place left.
    """
    before = proxy_server.proxy_shutdown_event

    @wraps(before)
    async def shut_down(*args: Any, **kwargs: Any) -> None:
        try:
            await before(*args, **kwargs)
        finally:
            await tenancy.aclose()

    proxy_server.proxy_shutdown_event = shut_down


def __getattr__(name: str) -> object:
    if name == "callback":
        return _callback()
    if name == "custom_auth":
        return _custom_auth()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
