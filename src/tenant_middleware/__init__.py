"""Multi-tenancy for LangChain, LlamaIndex and LiteLLM: the tenant is part of every call, and no tenant is an error.

Importing this package loads no framework and no client library; adapters are imported by name
(`tenant_middleware.langchain`, `.llamaindex`, `.litellm`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tenant_middleware.context import bind, current_tenant, pin, scope
from tenant_middleware.errors import (
    AuthenticationError,
    BudgetBusy,
    BudgetExceeded,
    ConfigurationError,
    ForeignReference,
    GuardrailBlocked,
    InvalidInput,
    InvalidTenant,
    IsolationBreach,
    MissingTenant,
    ModelForbidden,
    PartialWrite,
    RateLimited,
    Refusal,
    SealError,
    SettingsError,
    StoreUnavailable,
    TenancyError,
    TenantMismatch,
    TenantSuspended,
    UnpricedModel,
)
from tenant_middleware.tenant import Tenant

if TYPE_CHECKING:
    from tenant_middleware.admission.call import Call, Kind
    from tenant_middleware.admission.gate import ModelGate
    from tenant_middleware.metering.usage import Usage
    from tenant_middleware.policy import Policy
    from tenant_middleware.tenancy import Tenancy

__version__ = "0.1.0"

# Loaded when first used: they bring SQLAlchemy, PyJWT and pydantic-settings along.
_LATER = {
    "Call": "tenant_middleware.admission.call",
    "Kind": "tenant_middleware.admission.call",
    "ModelGate": "tenant_middleware.admission.gate",
    "Policy": "tenant_middleware.policy",
    "Tenancy": "tenant_middleware.tenancy",
    "Usage": "tenant_middleware.metering.usage",
    # `%load_ext tenant_middleware` looks for these two.
    "load_ipython_extension": "tenant_middleware.notebook",
    "unload_ipython_extension": "tenant_middleware.notebook",
}

__all__ = [
    "AuthenticationError",
    "BudgetBusy",
    "BudgetExceeded",
    "Call",
    "ConfigurationError",
    "ForeignReference",
    "GuardrailBlocked",
    "InvalidInput",
    "InvalidTenant",
    "IsolationBreach",
    "Kind",
    "MissingTenant",
    "ModelForbidden",
    "ModelGate",
    "PartialWrite",
    "Policy",
    "RateLimited",
    "Refusal",
    "SealError",
    "SettingsError",
    "StoreUnavailable",
    "Tenancy",
    "TenancyError",
    "Tenant",
    "TenantMismatch",
    "TenantSuspended",
    "UnpricedModel",
    "Usage",
    "bind",
    "current_tenant",
    "pin",
    "scope",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
