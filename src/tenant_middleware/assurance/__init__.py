"""Proof by attack: a pytest fixture for your own chain, and an audit of live backends. Importing this loads neither."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenant_middleware.assurance.audit import AuditReport, Finding
    from tenant_middleware.assurance.hosted import audit_chain
    from tenant_middleware.assurance.schedule import audit_every

__all__ = ["AuditReport", "Finding", "audit_chain", "audit_every"]

_LATER = {"audit_chain": "hosted", "audit_every": "schedule"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = _LATER.get(name, "audit")
        return getattr(import_module(f"tenant_middleware.assurance.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
