"""A tenant's way out, and its training data: suspend, export, erase with a receipt, and files of one tenant alone."""

from __future__ import annotations

from tenant_middleware.lifecycle.erasure import erase
from tenant_middleware.lifecycle.export import export_tenant, import_tenant
from tenant_middleware.lifecycle.receipt import Receipt, StoreReceipt
from tenant_middleware.lifecycle.stores import LifecycleStore
from tenant_middleware.lifecycle.suspension import resume, suspend
from tenant_middleware.lifecycle.training import TrainingSet, verify_training

__all__ = [
    "LifecycleStore",
    "Receipt",
    "StoreReceipt",
    "TrainingSet",
    "erase",
    "export_tenant",
    "import_tenant",
    "resume",
    "suspend",
    "verify_training",
]
