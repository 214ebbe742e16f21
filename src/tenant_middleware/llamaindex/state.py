"""A workflow's Context as JSON that only the tenant and subject it was taken from can restore."""

from __future__ import annotations

import hmac
import json
from typing import Any

from tenant_middleware.context import current_tenant
from tenant_middleware.errors import ConfigurationError, InvalidInput, TenantMismatch, missing_extra
from tenant_middleware.keys import fingerprint, tag
from tenant_middleware.tenant import Tenant

try:
    from llama_index.core.workflow import Context, Workflow
    from workflows.context.serializers import BaseSerializer, PickleSerializer
except ImportError as error:
    raise missing_extra("llamaindex", __name__) from error

_STAMP = "tenant_middleware"


def dump_context(context: Context[Any], *, secret: bytes, serializer: BaseSerializer | None = None) -> dict[str, Any]:
    """`context.to_dict()` with the tenant in context written in and signed; `secret` is the application's own."""
    payload = context.to_dict(_checked(serializer))
    return {_STAMP: _stamp(current_tenant(), payload, secret), "context": payload}


def load_context(
    workflow: Workflow, data: dict[str, Any], *, secret: bytes, serializer: BaseSerializer | None = None
) -> Context[Any]:
    """`Context.from_dict` of what `dump_context` made; raises TenantMismatch in the scope of anybody else.

    A payload without a valid stamp is somebody else's too: it says nothing about whose it is.
    """
    if not isinstance(data, dict) or "context" not in data:
        raise InvalidInput("load_context: expected what dump_context made")
    expected = _stamp(current_tenant(), data["context"], secret)
    if not hmac.compare_digest(expected, str(data.get(_STAMP, ""))):
        raise TenantMismatch(
            "this workflow state wasn't taken in the scope of this tenant and subject, or was changed: restore it "
            "in the scope it was taken in"
        )
    return Context.from_dict(workflow, data["context"], _checked(serializer))


def _stamp(tenant: Tenant, payload: dict[str, Any], secret: bytes) -> str:
    text = json.dumps([tag(tenant), tenant.subject, payload], sort_keys=True, default=_refuse)
    return fingerprint(secret, tenant, text)


def _refuse(value: object) -> object:
    raise InvalidInput(f"workflow state: expected JSON values, got {type(value).__name__}")


def _checked(serializer: BaseSerializer | None) -> BaseSerializer | None:
    if isinstance(serializer, PickleSerializer):
        raise ConfigurationError("workflow state: a pickle runs code when it is read; use the JSON serializer")
    return serializer
