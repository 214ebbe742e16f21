"""What lives in this process for a tenant (memories, caches, buffers), and how all of it goes when one leaves."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakSet

from tenant_middleware.context import peek_tenant
from tenant_middleware.errors import TenantMismatch
from tenant_middleware.tenant import Tenant


@runtime_checkable
class Resident(Protocol):
    """Holds something of tenants in this process; `leave` drops one tenant's and says how many things that were."""

    def leave(self, tenant: Tenant) -> int: ...


@dataclass(frozen=True, slots=True)
class Cleared:
    """How much one object held of the tenant that left."""

    what: str
    count: int


class Residents:
    """The objects to clear; they are held weakly, so registering one doesn't keep it alive."""

    def __init__(self) -> None:
        self._objects: WeakSet[Resident] = WeakSet()
        self._lock = threading.Lock()

    def register(self, resident: Resident) -> None:
        """Have an object cleared when a tenant leaves."""
        with self._lock:
            self._objects.add(resident)

    def leave(self, tenant: Tenant) -> list[Cleared]:
        """Clear everything of one tenant; raises TenantMismatch inside a scope, where somebody still works with it."""
        if peek_tenant() is not None:
            raise TenantMismatch("switch: a scope is open; leave it first, then switch")
        with self._lock:
            objects = list(self._objects)
        cleared = [Cleared(type(resident).__name__, resident.leave(tenant)) for resident in objects]
        return sorted(cleared, key=lambda c: c.what)


RESIDENTS = Residents()
"""The process's own: in-memory backends and adapters register here when they are made."""


class Seat:
    """Who sits at a program that serves one tenant at a time, such as a notebook; leaving clears what was theirs."""

    def __init__(self, residents: Residents = RESIDENTS) -> None:
        self._residents = residents
        self.tenant: Tenant | None = None

    def switch(self, to: Tenant | None) -> list[Cleared]:
        """Seat another tenant, or nobody; says what was cleared of the one who left. The same one again clears nothing.

        Raises TenantMismatch inside a scope.
        """
        left = self.tenant
        if left == to:
            return []
        cleared = self._residents.leave(left) if left is not None else []
        self.tenant = to
        return cleared
