"""`custom_auth` of the proxy: our JWT identity, and the only door: routes, headers and parameters are checked here.

LiteLLM asks this function for every route that needs a key, and leaves the rest of its checks to it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tenant_middleware.errors import AuthenticationError, TenancyError, missing_extra
from tenant_middleware.identity.bearer import bearer_token
from tenant_middleware.keys import key
from tenant_middleware.litellm.answers import keep_refusals, refused
from tenant_middleware.litellm.hooks import TenantCallback
from tenant_middleware.litellm.routes import OPERATOR, NotServed, check_body, check_headers, check_route
from tenant_middleware.litellm.wall import is_master_key
from tenant_middleware.tenant import Tenant

try:
    import litellm
    from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth
    from litellm.proxy.common_utils.http_parsing_utils import _read_request_body
    from starlette.requests import Request
except ImportError as error:
    raise missing_extra("proxy", __name__) from error

if TYPE_CHECKING:
    from tenant_middleware.tenancy import Tenancy

MARK = "tenant_middleware_tier"
"""In the key's metadata, which no client can write: the tier that this door let in."""


class Door:
    """Lets verified tenants in, to what is served, with parameters that are allowed."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy

    async def __call__(self, request: Request, api_key: str | None) -> UserAPIKeyAuth:
        try:
            return await self._let_in(request)
        except (TenancyError, NotServed) as error:
            answer = refused(error, self._tenancy.clock.time())
        raise answer  # outside the handler: what is chained would be printed

    async def _let_in(self, request: Request) -> UserAPIKeyAuth:
        keep_refusals(request.scope)
        method, path = request.method, str(request.scope.get("path"))
        token = bearer_token(request.scope["headers"])
        if (method, path) in OPERATOR and is_master_key(token):
            return UserAPIKeyAuth(api_key=_hashed(token), user_role=LitellmUserRoles.PROXY_ADMIN)
        tenant = await self._tenancy.averify(token)
        allowed = check_route(method, path)
        check_headers(request.headers)
        if request.url.query:
            raise NotServed("parameter_not_allowed", "query", "query parameters are not allowed here")
        if method == "POST":
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise NotServed("content_type", "content-type", "expected content-type: application/json", 415)
            check_body(allowed, await _read_request_body(request))
            _check_callback()
        return self._key_of(tenant)

    def _key_of(self, tenant: Tenant) -> UserAPIKeyAuth:
        return UserAPIKeyAuth(
            api_key=_hashed(key(tenant, "litellm", tenant.subject or "")),
            team_id=tenant.id,
            user_id=tenant.subject,
            user_role=LitellmUserRoles.INTERNAL_USER,
            models=self._entitled(tenant),
            metadata={MARK: tenant.tier},
        )

    def _entitled(self, tenant: Tenant) -> list[str]:
        """The proxy's models that are this tenant's to call; an empty list would mean all of them."""
        from litellm.proxy.proxy_server import llm_router

        names = llm_router.get_model_names() if llm_router is not None else []
        return [name for name in names if self._tenancy.policy.entitlement(tenant, name).allowed] or ["none"]


def tenant_of(user_api_key_dict: Any) -> Tenant:
    """The tenant that our door let in; raises AuthenticationError for a request that came by another."""
    metadata = getattr(user_api_key_dict, "metadata", None) or {}
    if MARK not in metadata:
        raise AuthenticationError(
            "this request did not pass tenant_middleware's custom_auth: set general_settings.custom_auth to "
            "tenant_middleware.litellm.custom_auth",
            rule="custom_auth",
        )
    return Tenant(user_api_key_dict.team_id, metadata[MARK], user_api_key_dict.user_id)


def _check_callback() -> None:
    if not any(isinstance(callback, TenantCallback) for callback in litellm.callbacks):
        raise NotServed(
            "configuration_error",
            "callbacks",
            "the proxy runs without tenant_middleware.litellm.callback in litellm_settings.callbacks, so nothing would "
            "be metered",
            500,
        )


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
